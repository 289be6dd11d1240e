"""Training state on disk: one file has all that resume needs; the last two files are kept.

A state is copied to the host's memory at its step, and written by a thread while the training
continues. A damaged file is skipped.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrpo.config.training import KEPT_STATES, WITHOUT_EFFECT
from vrpo.errors import UserError
from vrpo.files import atomic_output, require_free_space, write_text
from vrpo.models.weights import check_archive, check_finite
from vrpo.runtime.memory import is_out_of_memory

log = logging.getLogger(__name__)
CHECKED = ("objective", "ema", "optimizer")  # parts of a state that must be finite


class StateStore:
    """States of one run, in `state/<hash of its config>/step<NNNNNNN>.pt`.

    So a changed config starts a separate training and keeps the earlier one, which resumes when the
    config is changed back.
    """

    def __init__(self, run_folder: Path, config: dict[str, Any]) -> None:
        """`config`: the resolved run, as plain values."""
        self.config = without(config, WITHOUT_EFFECT)
        self.root = run_folder / "state"
        self.folder = self.root / config_hash(self.config)[:12]
        self._snapshot = Snapshot()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._writing: Future[None] | None = None

    def announce_other_configs(self) -> None:
        """Log which options differ from trainings of this run under another config."""
        for other in sorted(self.root.glob("*/config.json")):
            if other.parent != self.folder:
                differences = config_differences(json.loads(other.read_text()), self.config)
                said = "%s: an earlier state of another config (%s); it is kept, and not used"
                log.warning(said, other.parent, "; ".join(differences))

    def require_space(self, parameters: int) -> None:
        """Check that the disk has space for new states and a milestone.

        A state has four fp32 numbers a parameter; one is written beside those kept.

        Raises:
            UserError: too little is free.
        """
        new_states = max(1, KEPT_STATES + 1 - len(self._states()))
        size = (16 * new_states + 4) * parameters
        require_free_space(self.folder, size, "training state and weights")

    def remove_leftovers(self) -> None:
        """Remove what a killed training was writing; only who holds the run's lock may."""
        for path in self.folder.glob(".step*.pt.partial"):
            path.unlink()

    def load(self, at_most: int) -> dict[str, Any] | None:
        """The newest whole state of at most `at_most` steps, on the CPU, or None."""
        for step, path in sorted(self._states(), reverse=True):
            if step > at_most:
                continue
            try:
                check_archive(path)
                state = torch.load(path, map_location="cpu", weights_only=True)
                parts = {name: state[name] for name in CHECKED if name in state}
                check_finite(parts, path, "it is not used")
                return state
            except Exception as error:  # a damaged file raises errors of almost any kind
                if is_out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())[:200]
                log.warning("%s: damaged (%s), falling back to the state before it", path, reason)
        return None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy `state` as it is now and begin to write it, after the one before is written.

        All but the last two up to `step` are then removed; later ones (of a milestone that is
        rebuilt) stay.

        Raises:
            UserError: the state before could not be written.
        """
        self.wait()
        copied, arrived = self._snapshot.take(state)
        self._writing = self._thread.submit(self._write, step, copied, arrived)

    def wait(self) -> None:
        """Wait until the last state is on the disk.

        Raises:
            UserError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def raise_failure(self) -> None:
        """Raise what ended the writing of the last state early, if it has ended so."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def close(self) -> None:
        """Let a state that is being written be finished, and ignore errors: `wait` reports them."""
        self._thread.shutdown(wait=True)

    def _write(self, step: int, state: dict[str, Any], arrived: Callable[[], None]) -> None:
        arrived()
        if not (self.folder / "config.json").exists():
            write_text(self.folder / "config.json", json.dumps(self.config, indent=1))
        with atomic_output(self.folder / f"step{step:07d}.pt") as partial:
            try:
                torch.save(state, partial)
            except RuntimeError as error:  # torch reports a failed write so
                free = shutil.disk_usage(self.folder).free
                raise UserError(
                    f"{self.folder}: the training state could not be written, "
                    f"{free:,} bytes are free; free space and start again"
                ) from error
        for _, path in sorted(found for found in self._states() if found[0] <= step)[:-KEPT_STATES]:
            path.unlink()

    def _states(self) -> list[tuple[int, Path]]:
        name = re.compile(r"step(\d+)\.pt")
        found = [(name.fullmatch(path.name), path) for path in self.folder.glob("step*.pt")]
        return [(int(match[1]), path) for match, path in found if match]


class Snapshot:
    """Copies of a state's tensors in the host's memory, reused by the next; pinned for a GPU's."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Tensor] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def take(self, state: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[], None]]:
        """A copy of `state`, and a function that waits until it is complete.

        Work issued on the GPU after this call does not change the copy.
        """
        events: list[torch.cuda.Event] = []
        devices = {tensor.device for tensor in _tensors(state) if tensor.is_cuda}
        for device in devices:
            stream = self._streams.setdefault(device, torch.cuda.Stream(device))
            stream.wait_stream(torch.cuda.current_stream(device))
        copied = self._copied(state, ())
        for device in devices:
            event = self._streams[device].record_event()
            # the next step's weights wait, some tenths of a second
            torch.cuda.current_stream(device).wait_event(event)
            events.append(event)
        return copied, functools.partial(_wait_for, events)

    def _copied(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            return {name: self._copied(inner, (*path, str(name))) for name, inner in value.items()}
        if isinstance(value, list):
            return list(value)  # rows and groups: added to, never changed
        if not isinstance(value, Tensor):
            return value
        kept = self._kept.get(path)
        if kept is None or kept.shape != value.shape or kept.dtype != value.dtype:
            kept = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._kept[path] = kept
        stream = self._streams.get(value.device)
        with torch.cuda.stream(stream) if value.is_cuda else contextlib.nullcontext():
            return kept.copy_(value.detach(), non_blocking=True)


def _wait_for(events: list[torch.cuda.Event]) -> None:
    for event in events:
        event.synchronize()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, Tensor):
        yield value


def without(config: Mapping[str, Any], options: tuple[str, ...]) -> dict[str, Any]:
    """A copy of a config's plain values that lacks `options`, named as `section.option`."""
    copied = {
        section: dict(values) if isinstance(values, Mapping) else values
        for section, values in config.items()
    }
    for section, _, option in (name.partition(".") for name in options):
        copied.get(section, {}).pop(option, None)
    return copied


def config_hash(config: dict[str, Any]) -> str:
    """Hex SHA-256 of a config's values, whatever their order."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def config_differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """`option: old -> new` for every option that differs."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += config_differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
