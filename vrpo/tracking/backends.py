"""TensorBoard, W&B and Trackio behind one interface."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from vrpo.errors import UserError
from vrpo.tracking.runs import TrackedRun

log = logging.getLogger(__name__)
CONNECTING, FINISHING = 30.0, 20.0  # seconds that W&B may take to begin and to end a run


class Backend(Protocol):
    """A tracker, opened for one run."""

    replaces: bool
    """Whether opening it dropped what the run had logged after its present step."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of a step."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Log an image, uint8 [H,W,3]."""

    def close(self) -> None:
        """Write what is still to be written, and end."""


class TensorBoard:
    """Event files in `tensorboard/<id>` in the run's folder, of scores in `scores` below it."""

    replaces = True

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard" / run.id
        if run.part == "train":
            self.writer = SummaryWriter(str(folder), purge_step=run.step + 1)
            return
        suffix = f".{run.source}"
        for earlier in (folder / run.part).glob(f"*{suffix}"):
            earlier.unlink()  # the same scores, computed again
        self.writer = SummaryWriter(str(folder / run.part), filename_suffix=suffix)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """As `Backend.scalars`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """As `Backend.image`."""
        self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """As `Backend.close`."""
        self.writer.close()


class WandB:
    """A run of W&B, offline without credentials or network; WANDB_MODE and the like count."""

    replaces = False

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.wandb = wandb
        mode = os.environ.get("WANDB_MODE") or "online"
        self.run = self._connected(run) if mode == "online" else self._begin(run, mode)
        if self.run is None:
            self.run = self._begin(run, "offline")
        if run.part != "train":
            self.run.define_metric("*", step_metric="step")
        self.in_order = run.part == "train"
        if self.run.url:
            log.info("wandb: %s", self.run.url)

    def _connected(self, run: TrackedRun) -> Any:
        """The run on the server; None, after one warning, without credentials or network."""
        try:
            if self.wandb.login(prompt=False):
                return self._begin(run, "online")
            reason = "no credentials, `wandb login` or WANDB_API_KEY gives them"
        except self.wandb.Error as error:
            reason = f"no connection: {' '.join(str(error).split())[:200]}"
        log.warning("wandb: logging offline (%s); `wandb sync --append` sends it", reason)
        return None

    def _begin(self, run: TrackedRun, mode: str) -> Any:
        settings = {"finish_timeout": FINISHING, "silent": True, "console": "off"}
        if mode == "online":
            settings["init_timeout"] = CONNECTING
        return self.wandb.init(
            project=run.project,
            id=run.key,
            name=run.name,
            group=run.run,
            job_type=run.part,
            config=dict(run.options),
            dir=str(run.folder),
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=self.wandb.Settings(**settings),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """As `Backend.scalars`."""
        self._log(step, dict(values))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """As `Backend.image`."""
        self._log(step, {name: self.wandb.Image(image)})

    def _log(self, step: int, values: dict[str, Any]) -> None:
        """W&B's own step never falls; scores come in any order and have a `step` of their own."""
        if self.in_order:
            self.run.log(values, step=step)
        else:
            self.run.log({**values, "step": step})

    def close(self) -> None:
        """As `Backend.close`."""
        self.run.finish()


class Trackio:
    """A run of Trackio, in the database of this machine (TRACKIO_DIR) or a server that it names."""

    replaces = False

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self.trackio = trackio
        name = f"{run.name}-{run.id}"  # resumed by its name
        self.run = trackio.init(
            run.project, name, group=run.run, config=dict(run.options), resume="allow", embed=False
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """As `Backend.scalars`."""
        self.run.log(dict(values), step=step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """As `Backend.image`."""
        self.run.log({name: self.trackio.Image(image)}, step=step)

    def close(self) -> None:
        """As `Backend.close`."""
        self.run.finish()


BACKENDS: dict[str, Callable[[TrackedRun], Backend]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


def require_installed(names: Iterable[str]) -> None:
    """See that the packages of these trackers are there, without importing them.

    Raises:
        UserError: one is missing; names the extra that has it.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"tracking.trackers: {', '.join(missing)} not installed here; "
            'pip install "vrpo[trackers]", or leave it out'
        )
