"""Ranks of one stage, from `torchrun`'s environment: logging, error reports, shares of threads."""

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
    """Divide the threads in the environment among `ranks` processes; each gets at least one."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in THREAD_VARIABLES:
        if os.environ.get(name, "").isdecimal():
            os.environ[name] = str(max(1, int(os.environ[name]) // ranks))


def is_first() -> bool:
    """Whether this process speaks for all ranks."""
    return os.environ.get("RANK", "0") == "0"


def set_up_logging() -> None:
    """Log to stderr: the first rank everything, the others only errors, with their rank."""
    if is_first():
        line, level = "%(asctime)s %(message)s", logging.INFO
    else:
        line, level = f"%(asctime)s rank {os.environ['RANK']}: %(message)s", logging.ERROR
    logging.basicConfig(level=level, format=line, datefmt="%H:%M:%S")
    if is_first():
        return
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
    """Write this rank's last line and exit status to the file that `torchrun` names, if it does."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        # in the form that torch writes and shows
        details = {"timestamp": str(int(time.time())), "py_callstack": message}
        content = {"message": {"message": message, "extraInfo": details}, "status": status}
        Path(file).write_text(json.dumps(content), encoding="utf-8")


def reported_error(content: dict[str, Any]) -> tuple[str, int] | None:
    """Message and status that `report_error` wrote, from the parsed file; None: there are none."""
    return (content["message"]["message"], content["status"]) if "status" in content else None
