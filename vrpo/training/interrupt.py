"""When a training must save or end early: signals, wall-time budget, time between states."""

from __future__ import annotations

import signal
import time
from types import FrameType

from vrpo.errors import InterruptionError
from vrpo.runtime.distributed import Ranks

CHECK_EVERY = 10
"""Steps between agreements among ranks."""

OUT_OF_TIME = "the wall-time budget"


def budget_minutes(limit: float) -> float:
    """Minutes of work in a job that must have ended after `limit`.

    Ten, or a fifth if that is less, are left to start, to save and to end.
    """
    return max(limit - 10, 0.8 * limit)


class Interrupt:
    """Watches SIGTERM and two clocks; all ranks get the same answer at the same step."""

    def __init__(
        self, ranks: Ranks, *, save_minutes: float, max_minutes: float | None, since: float
    ) -> None:
        """`max_minutes` after `since` (of `time.monotonic`) it must have ended; None: no limit."""
        self.ranks = ranks
        self.save_seconds = 60 * save_minutes
        self.deadline: float | None = None
        if max_minutes is not None:
            self.deadline = since + 60 * budget_minutes(max_minutes)
        self.last_save = time.monotonic()
        self.reason: str | None = None
        self.stopping = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name

    def save_now(self, step: int) -> bool:
        """Whether to save after `step`; the caller saves, then calls `stop_if_asked`."""
        if self.ranks.world > 1 and step % CHECK_EVERY:
            return False
        now = time.monotonic()
        if self.reason is None and self.deadline is not None and now > self.deadline:
            self.reason = OUT_OF_TIME
        late = now - self.last_save > self.save_seconds
        self.stopping, due = self.ranks.any(self.reason is not None, late)
        if due or self.stopping:
            self.last_save = now
        return due or self.stopping

    def stop_if_asked(self, step: int) -> None:
        """Raise `InterruptionError` if a signal or the budget asked for the end."""
        if self.stopping:
            reason = self.reason or "another rank"
            raise InterruptionError(
                f"training: ended by {reason} after step {step}, state is saved; "
                "the same command goes on from there",
                out_of_time=reason == OUT_OF_TIME,
            )
