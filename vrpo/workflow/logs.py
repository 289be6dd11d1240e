"""Logs of a job's earlier tries, which Snakemake deletes when the job starts again.

While a job runs, its log `NAME.log` has a second name, `.NAME.log.running`. If that is there when
the job starts again, the try before has failed or still runs, and its log becomes `NAME.log.1`, the
one of the next `NAME.log.2`, and so on. In a job that succeeds the second name becomes
`.NAME.log.done`. Where its result is later found to be there and only restored, that log becomes
the next of these, too.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from pathlib import Path

from vrpo.workflow import KEEP


def keep_log() -> None:
    """Give the file that this process's output goes to, in a workflow, its second name."""
    log = _log()
    if log is None:
        return
    second = _second_name(log)
    with contextlib.suppress(OSError):  # no hard links here, or another try is faster
        if second.exists():
            if second.samefile(log):  # a process that became another one by exec
                return
            second.rename(_next_name(log))
        os.link(log, second)


def release_log(*, restored: bool = False) -> None:
    """Note that the job succeeded.

    Args:
        restored: an earlier job made the result; its log is kept.
    """
    log = _log()
    if log is not None:
        with contextlib.suppress(OSError):
            if _second_name(log).samefile(log):
                done = log.with_name(f".{log.name}.done")
                if not restored:
                    _second_name(log).replace(done)
                    return
                _second_name(log).unlink()
                done.rename(_next_name(log))


def _log() -> Path | None:
    if not os.environ.get(KEEP):
        return None
    with contextlib.suppress(OSError):
        log = Path("/proc/self/fd/1").readlink()
        if log.suffix == ".log" and stat.S_ISREG(log.stat().st_mode):
            return log
    return None


def _next_name(log: Path) -> Path:
    names = (log.with_name(f"{log.name}.{n}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def _second_name(log: Path) -> Path:
    return log.with_name(f".{log.name}.running")
