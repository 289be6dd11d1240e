"""A training as its trackers know it: one run from its first step to its last, however resumed.

The run's id is kept beside the training's states. So a resumed training continues its run, and a
training that starts anew, with other options or forced, has a new one. Scores are a run of their
own beside it, as they are logged by other processes while the training may be under way.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vrpo.files import write_text, write_text_if_changed

FILE = "trackers.json"


@dataclass(frozen=True)
class TrackedRun:
    """A run of a tracker."""

    id: str
    run: str
    seed: int
    folder: Path
    """Folder of the training, where trackers write their files."""
    project: str
    part: str = "train"
    """`train`, or `scores`."""
    step: int = 0
    """Steps that the training has done; of later ones, nothing that was logged before counts."""
    source: str = ""
    """Where scores come from: milestone and sampler."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the training."""

    @property
    def name(self) -> str:
        """Name in the trackers."""
        suffix = "" if self.part == "train" else f"-{self.part}"
        return f"{self.run}-seed{self.seed}{suffix}"

    @property
    def key(self) -> str:
        """Id in the trackers, different for each part."""
        return self.id if self.part == "train" else f"{self.id}-{self.part}"


def training_run(run: TrackedRun, states: Path) -> TrackedRun:
    """`run` with the id that is kept in `states`, the folder of its states, or with a new one.

    It is also noted in the run's folder, for the scores.

    Raises:
        UserError: the folder cannot be written.
    """
    kept = _read(states / FILE).get("id") or uuid.uuid4().hex[:8]
    named = replace(run, id=kept)
    text = json.dumps({"id": kept, "run": run.run, "seed": run.seed}) + "\n"
    if not (states / FILE).exists():
        write_text(states / FILE, text)
    write_text_if_changed(run.folder / FILE, text)
    return named


def scores_run(folder: Path, project: str, source: str) -> TrackedRun | None:
    """The run that the scores of the training in `folder` go to; None: it was not tracked."""
    noted = _read(folder / FILE)
    if not {"id", "run", "seed"} <= noted.keys():
        return None
    named = noted["id"], noted["run"], noted["seed"]
    return TrackedRun(*named, folder, project, part="scores", source=source)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
