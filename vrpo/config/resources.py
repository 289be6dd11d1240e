"""Options of what jobs ask for."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vrpo.config.base import Options, option


class ResourceOptions(Options):
    """Requests of each job; on SLURM they go to the queue."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "`auto`: the GPU if there is one")
    gpus: int = option(
        1,
        "GPUs of a training job; 0 where there are none; what a config states is never replaced by the CPU",
        ge=0,
    )
    gres: str = option(
        "",
        "for clusters that know `--gres` only: name of the GPUs there, e.g. `gpu` or `gpu:h100`, asked for by `--gres=gpu:N`; empty: by `--gpus=N`",
        pattern=r"^([A-Za-z0-9_]+(:[A-Za-z0-9_.]+)?)?$",
    )
    sample_gpus: int = option(
        1, "GPUs of a sampling job, at most `gpus`; the images do not depend on it", ge=1
    )
    threads: int = option(
        1,
        "CPU threads of a job, shared among its ranks; equal numbers give equal bits on one kind of processor",
        ge=1,
    )
    memory_mb: int = option(4_000, "memory of a job that runs networks", "MB", ge=1)
    cpu_memory_mb: int = option(
        4_000,
        "memory of a job that runs none: listing, images, manifest, collected results, figures, tables, report; at most `memory_mb`",
        "MB",
        ge=1,
    )
    runtime_minutes: int = option(
        240,
        "time limit of a job. A training saves its state before it and goes on in the next try, so a milestone may take `retries` + 1 times as long "
        "(profiles/slurm/config.yaml), and longer where the workflow is started again",
        "minutes",
        ge=1,
    )
    max_runtime_minutes: int | None = option(
        None,
        "longest time limit of later tries, e.g. the partition's: each try of a job that is not a training asks for `runtime_minutes` more, up to this; "
        "null: all ask for `runtime_minutes`",
        "minutes",
        ge=1,
    )
    save_minutes: float = option(
        10.0,
        "minutes between saved training states: what an accident costs at most",
        "minutes",
        gt=0,
    )
    log_every: int = option(100, "steps averaged in a row of train.csv", "steps", ge=1)
    max_skipped: int = option(
        10, "non-finite steps in a row after which a training stops", "steps", ge=0
    )

    @model_validator(mode="after")
    def _later_tries_are_no_shorter(self) -> ResourceOptions:
        if self.max_runtime_minutes is not None and self.max_runtime_minutes < self.runtime_minutes:
            raise ValueError(
                f"`max_runtime_minutes` {self.max_runtime_minutes} is below `runtime_minutes` {self.runtime_minutes}; change one of them"
            )
        return self
