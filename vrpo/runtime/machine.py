"""The processor that computes a result: others round differently, and training amplifies that."""

from __future__ import annotations

import platform
from pathlib import Path


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name and architecture, e.g. `Intel(R) Xeon(R) Processor (x86_64)`.

    The architecture alone where the system does not tell the name.
    """
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()
