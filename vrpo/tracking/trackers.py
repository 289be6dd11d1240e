"""Trackers of one run, each called in a thread of its own.

Nothing of a tracker reaches the training: not its errors, not its time. One that fails, hangs or
does not keep up is dropped with one warning.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vrpo.files import FileLock, LockedError, write_text
from vrpo.tracking.backends import BACKENDS, Backend
from vrpo.tracking.runs import TrackedRun, scores_run, training_run

log = logging.getLogger(__name__)
PATIENCE = 60.0  # seconds that all trackers together may take to end
BACKLOG = 1000  # calls that a tracker may be behind


class Row(NamedTuple):
    """Values of a step."""

    step: int
    values: Mapping[str, float]


class Trackers:
    """The trackers of a run; without any, it does nothing."""

    def __init__(
        self,
        names: Sequence[str] = (),
        run: TrackedRun | None = None,
        *,
        earlier: Sequence[Row] = (),
        progress: Path | None = None,
    ) -> None:
        """Open the trackers `names` for `run`, without waiting for them.

        Args:
            names: of `BACKENDS`.
            run: the run.
            earlier: rows up to the run's present step; a tracker gets those that it lacks.
            progress: folder for notes of the last step that each tracker has; None: all is logged.
        """
        self._workers = [_Worker(name, run, earlier, progress) for name in names]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of a step."""
        for worker in self._workers:
            worker.put(step, lambda backend: backend.scalars(step, values), noted=True)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Log an image, uint8 [H,W,3]."""
        for worker in self._workers:
            worker.put(step, lambda backend: backend.image(step, name, image))

    def close(self) -> None:
        """Let all end, at most `PATIENCE` seconds long."""
        deadline = time.monotonic() + PATIENCE
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.wait(deadline)


class _Call(NamedTuple):
    step: int
    act: Callable[[Backend], None]
    noted: bool
    """Whether the step is noted as one that the tracker has."""


class _Worker:
    """One tracker and its thread, which ends with the process even if it hangs."""

    def __init__(
        self, name: str, run: TrackedRun, earlier: Sequence[Row], progress: Path | None
    ) -> None:
        self.name, self._run, self._earlier = name, run, earlier
        self._note = progress / f"tracked-{name}" if progress else None
        self._calls: queue.Queue[_Call | None] = queue.Queue(BACKLOG)
        self._lock, self._dropped = threading.Lock(), False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, step: int, act: Callable[[Backend], None], noted: bool = False) -> None:
        """Call the tracker when its thread comes to it."""
        if self._dropped:
            return
        try:
            self._calls.put_nowait(_Call(step, act, noted))
        except queue.Full:
            self._drop(f"is {BACKLOG} calls behind")

    def end(self) -> None:
        """Ask it to end after all calls."""
        if not self._dropped:
            try:
                self._calls.put_nowait(None)
            except queue.Full:
                self._drop(f"is {BACKLOG} calls behind")

    def wait(self, deadline: float) -> None:
        """Wait for its end until `deadline`, of the monotonic clock."""
        if self._dropped:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._drop(f"did not end in {PATIENCE:.0f} s")

    def _work(self) -> None:
        try:
            backend = BACKENDS[self.name](self._run)
            has = self._noted()
            if backend.replaces:
                has = min(has, self._run.step)
            for row in self._earlier:
                if row.step > has:
                    backend.scalars(*row)
            if self._earlier:
                has = max(has, self._earlier[-1].step)
                self._write_note(has)
            while (call := self._calls.get()) is not None and not self._dropped:
                if call.step > has:
                    call.act(backend)
                    if call.noted:
                        self._write_note(call.step)
            backend.close()
        except Exception as error:  # of any kind, from packages that are not ours
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            self._drop(f"failed ({reason})")

    def _noted(self) -> int:
        """The last step that the tracker has, as far as is known."""
        text = ""
        if self._note is not None:
            with contextlib.suppress(OSError):
                text = self._note.read_text(encoding="utf-8").strip()
        return int(text) if text.isdecimal() else -1

    def _write_note(self, step: int) -> None:
        if self._note is not None:
            write_text(self._note, f"{step}\n")

    def _drop(self, reason: str) -> None:
        with self._lock:
            if not self._dropped:
                self._dropped = True
                log.warning("tracker %s: %s; it is dropped, results are not affected",
                            self.name, reason)  # fmt: skip


def follow_training(
    names: Sequence[str], run: TrackedRun, *, states: Path, earlier: Sequence[Row]
) -> Trackers:
    """The trackers of a training, going on from `run.step`.

    Args:
        names: of the trackers.
        run: its id does not count; it gets that of the states.
        states: folder of the training's states.
        earlier: rows up to `run.step`.

    Raises:
        UserError: `states` cannot be written.
    """
    if not names:
        return Trackers()
    return Trackers(names, training_run(run, states), earlier=earlier, progress=states)


def log_scores(
    names: Sequence[str],
    project: str,
    folder: Path,
    *,
    step: int,
    sampler: str,
    scores: Mapping[str, float | None],
) -> None:
    """Log the scores of a milestone to the trackers of its training.

    Args:
        names: of the trackers.
        project: theirs.
        folder: of the training; nothing is logged where no tracker followed it.
        step: the milestone.
        sampler: that sampled the images.
        scores: by name; None for those that are not given.
    """
    run = scores_run(folder, project, f"{step}-{sampler}")
    if not names or run is None:
        return
    values = {f"scores/{sampler}/{name}": value for name, value in scores.items()}
    with _in_turn(folder / "trackers.lock"), contextlib.closing(Trackers(names, run)) as trackers:
        trackers.scalars(step, {name: value for name, value in values.items() if value is not None})


@contextlib.contextmanager
def _in_turn(path: Path) -> Iterator[None]:
    """Wait until no other job logs scores of this training, at most twice as long as one may."""
    deadline, lock = time.monotonic() + 2 * PATIENCE, None
    try:
        while lock is None and time.monotonic() < deadline:
            try:
                lock = FileLock(path)
            except LockedError:
                time.sleep(0.2)
        yield
    finally:
        if lock is not None:
            lock.release()
