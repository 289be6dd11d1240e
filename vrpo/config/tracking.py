"""Options of trackers and previews, which change no result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from vrpo.config.base import Name, Options, distinct, option
from vrpo.config.processes import ProcessOptions

TRACKERS = ("tensorboard", "wandb", "trackio")
Tracker = Literal["tensorboard", "wandb", "trackio"]
Class = Annotated[int, Field(ge=0)]


class PreviewOptions(Options):
    """Grids of images that the averaged network samples during a training."""

    every: int = option(1000, "steps between grids", "steps", ge=1)
    images: int = option(16, "images in a grid", "images", ge=1, le=256)
    classes: list[Class] | None = option(
        None, "their classes, repeated in turn; null: spread evenly over all", min_length=1
    )
    steps: int = option(25, "sampling steps: Heun's of SiT, DDIM's of DiT", "steps", ge=1)
    guidance: float = option(1.0, "scale of classifier-free guidance; 1 is none", ge=0)

    def labels(self, num_classes: int) -> list[int]:
        """The class of each image."""
        if self.classes is None:
            return [number * num_classes // self.images for number in range(self.images)]
        return [self.classes[number % len(self.classes)] for number in range(self.images)]


class TrackingOptions(Options):
    """How trainings and scores are followed live (docs/running.md)."""

    trackers: Annotated[list[Tracker], AfterValidator(distinct)] = option(
        list, "trackers that get losses, rates, diagnostics, previews and scores"
    )
    project: Name | None = option(
        None, "project of the runs in W&B and Trackio; null: the experiment's name"
    )
    preview: PreviewOptions | None = option(None, "sample grids during trainings; null: none")

    def check(self, num_classes: int, processes: Iterable[ProcessOptions]) -> None:
        """Check the previews against the experiment.

        Raises:
            ValueError: a class does not exist, or a process has fewer noise levels than steps.
        """
        if self.preview is None:
            return
        if max(self.preview.labels(num_classes)) >= num_classes:
            raise ValueError(
                f"tracking.preview.classes: {self.preview.classes}, but the data have classes "
                f"0 to {num_classes - 1}; name some of these"
            )
        levels = [process.steps for process in processes if process.kind == "ddpm"]
        if self.preview.steps > min(levels, default=self.preview.steps):
            raise ValueError(
                f"tracking.preview.steps: {self.preview.steps} are more than the {min(levels)} "
                f"noise levels of a process; choose at most {min(levels)}"
            )
