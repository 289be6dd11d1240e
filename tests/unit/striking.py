"""Processes that end by SIGKILL at a counted call: the same moment on every machine, however busy it is."""

from __future__ import annotations

import functools
import itertools
import os
import signal
from typing import Any, Literal

from vrpo.files import partial_path


def strike_at(
    owner: Any, name: str, count: int, when: Literal["before", "after", "torn"] = "before"
) -> None:
    """Let the `count`-th call of `owner.name` end this process before or after its work; `torn`: with half of the file that is to be renamed written."""
    work, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(work)
    def counted(*arguments: Any, **named: Any) -> Any:
        due = next(calls) == count
        if due and when == "torn":
            partial = partial_path(arguments[0])
            os.truncate(partial, partial.stat().st_size // 2)
        if due and when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        result = work(*arguments, **named)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)
