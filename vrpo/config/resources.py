"""Options of what jobs compute on."""

from __future__ import annotations

from typing import Literal

from vrpo.config.base import Options, option


class ResourceOptions(Options):
    """Device and threads of jobs. Requests to a queue are in the profile (profiles/slurm)."""

    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "`auto`: a GPU if there is one; `cuda`: never the CPU instead"
    )
    threads: int = option(
        1, "CPU threads of a job; they decide the last bits of results on a CPU", ge=1
    )
    save_minutes: float = option(
        10.0,
        "time between saved training states, which is all that a kill can cost",
        "minutes",
        gt=0,
    )
    log_every: int = option(100, "steps averaged in a row of train.csv", "steps", ge=1)
    max_skipped: int = option(
        10, "non-finite steps in a row after which a training stops", "steps", ge=0
    )
