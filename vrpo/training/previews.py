"""Previews: grids of images of the averaged network, as PNG files and in the trackers."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from vrpo.files import atomic_output
from vrpo.tracking.trackers import Trackers

log = logging.getLogger(__name__)
Draw = Callable[[nn.Module], np.ndarray]
"""Samples images uint8 [N,H,W,3] of a network; it leaves PyTorch's generators as they are."""
GAP = 2  # white pixels between images


class Previews:
    """The previews of a run, in `previews/step<NNNNNNN>.png` beside train.csv.

    One that cannot be sampled or written changes nothing in the training: previews end with a
    warning until it is started again.
    """

    def __init__(
        self, draw: Draw, every: int, run_folder: Path, step: int, trackers: Trackers
    ) -> None:
        """`step`: steps done; files of later ones, of another or undone training, are removed."""
        self._draw: Draw | None = draw
        self.every, self.folder, self.trackers = every, run_folder / "previews", trackers
        for path in self.folder.glob("step*.png"):
            found = re.fullmatch(r"step(\d+)\.png", path.name)
            if found and int(found[1]) > step:
                path.unlink(missing_ok=True)

    def after(self, step: int, network: nn.Module) -> float:
        """Sample a grid where one is due; returns the seconds it took."""
        if self._draw is None or step % self.every:
            return 0.0
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # so that the training's own work is not counted
        began = time.monotonic()
        try:
            grid = tiled(self._draw(network))
            self.trackers.image(step, "preview", grid)
            with atomic_output(self.folder / f"step{step:07d}.png") as partial:
                Image.fromarray(grid).save(partial, format="PNG")
        except Exception as error:  # no preview is worth a training
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            log.warning("step %d: no preview (%s); the training goes on without", step, reason)
            self._draw = None
        return time.monotonic() - began


def tiled(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N,H,W,3] on one white canvas [H',W',3], row by row, about as wide as high."""
    count, height, width, _ = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    high, wide = height + GAP, width + GAP
    canvas = np.full((rows * high - GAP, columns * wide - GAP, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * high, number % columns * wide
        canvas[top : top + height, left : left + width] = image
    return canvas
