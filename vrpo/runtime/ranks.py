"""Ranks of one stage, as `torchrun` describes them in the environment: who speaks, how errors are reported, and whose threads are whose."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Set by Snakemake for each job: the threads of libraries that compute."""


def own_threads(threads: int) -> int:
    """This rank's share of a job's CPU threads, at least 1."""
    return max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def share_threads(ranks: int) -> None:
    """Share the job's threads in the environment among `ranks` processes that are to be started; without any there, each gets one."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in THREAD_VARIABLES:
        if os.environ.get(name, "").isdecimal():
            os.environ[name] = str(max(1, int(os.environ[name]) // ranks))


def is_first() -> bool:
    """Whether this process speaks for all ranks."""
    return os.environ.get("RANK", "0") == "0"


def set_up_logging() -> None:
    """Log to stderr. What is said by every rank is said by the first one alone; of the others only errors are shown, with the rank."""
    if is_first():
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
        )
        return
    logging.basicConfig(
        level=logging.ERROR,
        format=f"%(asctime)s rank {os.environ['RANK']}: %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.disable(logging.WARNING)  # of libraries that set levels and handlers of their own, too
    logging.captureWarnings(True)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    _hide_progress_bars()


def _hide_progress_bars() -> None:
    import tqdm

    shown = tqdm.tqdm.__init__

    def hidden(self: tqdm.tqdm, *arguments: Any, **options: Any) -> None:
        shown(self, *arguments, **{**options, "disable": True})

    tqdm.tqdm.__init__ = hidden


def report_error(message: str, status: int) -> None:
    """Leave the line that ends this rank, and its exit status, to what started it, where `torchrun` has named a file for them."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        details = {
            "timestamp": str(int(time.time())),
            "py_callstack": message,
        }  # as torch writes them, and shows them
        Path(file).write_text(
            json.dumps({"message": {"message": message, "extraInfo": details}, "status": status}),
            encoding="utf-8",
        )


def reported_error(content: dict[str, Any]) -> tuple[str, int] | None:
    """The report of `report_error`, from the parsed file; None if the rank wrote none."""
    return (content["message"]["message"], content["status"]) if "status" in content else None
