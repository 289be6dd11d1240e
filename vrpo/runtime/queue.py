"""The job of a queue (SLURM) that this process belongs to."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime

from vrpo.errors import InterruptionError
from vrpo.runtime.ranks import is_first

ANSWERS_WITHIN = 30  # seconds
MAY_REQUEUE = "VRPO_REQUEUE"
"""Environment variable of jobs that do nothing but one stage, which may put them back."""


def has_given_gpus() -> bool:
    """Whether SLURM has given this process's job GPUs."""
    return any(name.startswith("SLURM_") and "GPU" in name for name in os.environ)


def minutes_left() -> float | None:
    """Minutes until the job's time limit; None outside a job, without a limit or an answer."""
    job = os.environ.get("SLURM_JOB_ID")
    answer = job and ask("squeue", "--noheader", "--jobs", job, "--format", "%e")
    try:
        end = datetime.fromisoformat((answer or "").strip())
    except ValueError:
        return None
    return (end - datetime.now(end.tzinfo)).total_seconds() / 60


@contextlib.contextmanager
def resumed_by_queue() -> Iterator[None]:
    """Put the job back into the queue where a stage ends before its work is done."""
    try:
        yield
    except InterruptionError as error:
        if is_first() and put_back(by_itself=error.out_of_time):
            raise InterruptionError(f"{error}; SLURM runs this job again") from None
        raise


def put_back(*, by_itself: bool) -> bool:
    """Put this process's job back into the queue, after the stage has saved its state.

    Only jobs of a workflow that allows it, and only where they end by themselves or SLURM preempts
    them: whoever cancels a job wants it to end.

    Args:
        by_itself: whether the job ends because its time is over or a node is lost.

    Returns:
        Whether SLURM will run the job again, under the same number.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or not os.environ.get(MAY_REQUEUE):
        return False
    if not by_itself and not _is_preempted(job):
        return False
    return ask("scontrol", "requeue", job) is not None


def _is_preempted(job: str) -> bool:
    described = ask("scontrol", "show", "job", job) or ""
    return re.search(r"PreemptTime=\d", described) is not None


def ask(*command: str) -> str | None:
    """Output of a command of SLURM; None if it fails. Times are in ISO format."""
    environment: Mapping[str, str] = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=ANSWERS_WITHIN,
            check=True,
            env=environment,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
