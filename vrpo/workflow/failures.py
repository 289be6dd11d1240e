"""Failed jobs of an experiment: logs that end in an error.

Each attempt at a job writes its log anew, so a log that ends in an error is of a job that failed
and was not tried again since. A job that was killed from outside says nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from vrpo.errors import PREFIX

TRACEBACK = "Traceback (most recent call last):"
LATER = re.compile(r"\d\d:\d\d:\d\d |wrote ")  # lines of a job that went on
TAIL = 1 << 14  # bytes that are read of a log's end


class Failure(NamedTuple):
    """A job that failed."""

    log: Path
    age: float
    """Seconds since its log was written."""
    error: str
    """Its last line: the error."""


def failures(logs: Path, now: float) -> list[Failure]:
    """Failed jobs, the latest first.

    Args:
        logs: folder of an experiment's logs, with all folders below.
        now: the time, in seconds since the epoch.
    """
    found = []
    for path in sorted(logs.rglob("*.log")):
        try:
            changed = path.stat().st_mtime
            with open(path, "rb") as file:
                file.seek(max(0, file.seek(0, 2) - TAIL))
                text = file.read().decode(errors="replace")
        except OSError:  # Snakemake has just removed it
            continue
        if error := error_of(text):
            found.append(Failure(path, max(0.0, now - changed), error))
    return sorted(found, key=lambda failure: failure.age)


def error_of(log: str) -> str | None:
    """The line of the error that ends a log; None if it ends otherwise."""
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", log) if line.strip()]
    starts = [
        place
        for place, line in enumerate(lines)
        if line.startswith(PREFIX) or line.endswith(TRACEBACK)
    ]
    if not starts or any(LATER.match(line) for line in lines[starts[-1] + 1 :]):
        return None
    first, *rest = lines[starts[-1] :]
    if first.startswith(PREFIX):
        return first
    return next((line for line in rest if not line[0].isspace()), first)
