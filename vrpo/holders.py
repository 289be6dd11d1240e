"""Identity of the process that holds a lock, and whether it still runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

FIELDS = {"host", "pid", "job", "started", "boot", "namespace"}


def holder_of_this_process() -> dict[str, Any]:
    """Identity of this process, unique on all hosts and at all times; JSON-able."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "started": _start_of(os.getpid()),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip(),
        "namespace": str(Path("/proc/self/ns/pid").readlink()),
    }


def read_holder(path: Path) -> dict[str, Any] | None:
    """Holder that a lock or `.held` file names; empty if it names none, None without a file."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) and holder.keys() >= FIELDS else {}


def described(holder: dict[str, Any] | None) -> str:
    """Host, pid and job of a holder, for messages."""
    if not holder:
        return "an unknown process"
    return f"host {holder['host']}, pid {holder['pid']}, SLURM job {holder['job'] or 'none'}"


def is_running(holder: dict[str, Any]) -> bool | None:
    """Whether a holder of this host still runs; None for one that `/proc` does not show."""
    here = holder_of_this_process()
    if not holder or any(holder[name] != here[name] for name in ("boot", "namespace")):
        return None
    return _start_of(holder["pid"]) == holder["started"]


def is_gone(holder: dict[str, Any]) -> bool:
    """Whether a holder is known to have ended; False where neither `/proc` nor SLURM knows."""
    running = is_running(holder)
    if running is not None or not holder:
        return running is False
    here = os.environ.get("SLURM_JOB_ID")
    return holder["job"] not in (None, here) and _slurm_job_is_over(holder["job"])


def _start_of(pid: int) -> str | None:
    """Start of a process in ticks since the boot; None where there is none, or it is a zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = status.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _slurm_job_is_over(job: str) -> bool:
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "Invalid job id" in answer.stderr if answer.returncode else not answer.stdout.strip()
