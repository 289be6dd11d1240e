"""The job of a queue (SLURM) that this process belongs to."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime

ANSWERS_WITHIN = 30  # seconds


def has_given_gpus() -> bool:
    """Whether SLURM has given this process's job GPUs."""
    return any(name.startswith("SLURM_") and "GPU" in name for name in os.environ)


def minutes_left() -> float | None:
    """Minutes until the job's time limit; None outside a job, without a limit or an answer."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%e"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWERS_WITHIN, check=True
        )
        end = datetime.fromisoformat(answer.stdout.strip())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return (end - datetime.now(end.tzinfo)).total_seconds() / 60
