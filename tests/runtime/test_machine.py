"""The name of the processor that computed a result."""

import platform
from pathlib import Path

from vrpo.runtime.machine import processor


def test_processor_is_named_by_its_model(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU: 2 GHz\nprocessor\t: 1\nmodel name\t: "
        "Some CPU: 2 GHz\n"
    )
    assert processor(tmp_path / "cpuinfo") == f"Some CPU: 2 GHz ({platform.machine()})"
    assert processor(tmp_path / "none") == platform.machine()
