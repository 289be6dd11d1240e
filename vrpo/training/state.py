"""Training state on disk: everything that resume needs in one file, the last two kept, a damaged one passed over."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from vrpo.errors import UserError
from vrpo.files import atomic_output, require_free_space, write_text

log = logging.getLogger(__name__)
KEPT = 2


class StateStore:
    """States of one run, in `state/<hash of its config>/step<NNNNNNN>.pt`.

    A changed config so starts a training of its own, and nothing of the earlier one is lost: changing back goes on with it.
    """

    def __init__(self, run_folder: Path, config: dict[str, Any]) -> None:
        """`config`: the resolved run, as plain values."""
        self.config = config
        self.root = run_folder / "state"
        self.folder = self.root / config_hash(config)[:12]

    def announce_other_configs(self) -> None:
        """Log which options differ from trainings of this run under another config."""
        for other in sorted(self.root.glob("*/config.json")):
            if other.parent != self.folder:
                differences = "; ".join(config_differences(json.loads(other.read_text()), self.config))
                log.warning("%s: an earlier state of another config (%s); it is kept, and not used", other.parent, differences)

    def require_space(self, parameters: int) -> None:
        """Refuse to begin what the disk cannot hold: the states kept and the one being written, four fp32 numbers a parameter, and a milestone.

        Raises:
            UserError: too little is free.
        """
        new_states = max(1, KEPT + 1 - len(self._states()))
        require_free_space(self.folder, (16 * new_states + 4) * parameters, "training state and weights")

    def load(self, at_most: int, device: torch.device) -> dict[str, Any] | None:
        """The newest whole state of at most `at_most` steps, or None."""
        for step, path in sorted(self._states(), reverse=True):
            if step > at_most:
                continue
            try:
                return torch.load(path, map_location=device, weights_only=True)
            except (RuntimeError, EOFError, OSError, KeyError, pickle.UnpicklingError) as error:
                log.warning("%s: damaged (%s), falling back to the state before it", path, " ".join(str(error).split())[:200])
        return None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a state and drop all but the last two up to `step`; later ones (of a milestone that is made again) stay."""
        if not (self.folder / "config.json").exists():
            write_text(self.folder / "config.json", json.dumps(self.config, indent=1))
        with atomic_output(self.folder / f"step{step:07d}.pt") as partial:
            try:
                torch.save(state, partial)
            except RuntimeError as error:  # torch reports a failed write so
                free = shutil.disk_usage(self.folder).free
                raise UserError(f"{self.folder}: the training state could not be written, {free:,} bytes are free; free space and start again") from error
        for _, path in sorted(found for found in self._states() if found[0] <= step)[:-KEPT]:
            path.unlink()

    def _states(self) -> list[tuple[int, Path]]:
        found = [(re.fullmatch(r"step(\d+)\.pt", path.name), path) for path in self.folder.glob("step*.pt")]
        return [(int(match[1]), path) for match, path in found if match]


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
