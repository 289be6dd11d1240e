"""A grid of images: a row for each run or sampler, a column for each label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from vrpo.report import style

Row = tuple[str, str, np.ndarray]
"""Title, its colour, and images [K,H,W,3]."""


def image_grid(rows: Sequence[Row], labels: Sequence[int], real: np.ndarray | None) -> Figure:
    """Rows of images with their titles at the left and class labels at the top.

    Args:
        rows: from top to bottom.
        labels: of the K columns.
        real: images [K,H,W,3] of a last row, a little apart; None: no such row.
    """
    shown = [*rows, *([] if real is None else [("real", "black", real)])]
    side = min(0.62, (style.WIDTH - 1.0) / len(labels))
    width, height = 1.0 + side * len(labels), side * len(shown) + 0.30
    figure = Figure(figsize=(width, height))
    for index, (title, colour, images) in enumerate(shown):
        apart = 0.06 if index == len(rows) else 0
        top = height - 0.22 - side * (index + 1) - apart
        place = 0.93 / width, (top + side / 2) / height
        figure.text(*place, title, ha="right", va="center", fontsize=7, color=colour)
        size = side * 0.96 / width, side * 0.96 / height
        for column, image in enumerate(images):
            axis = figure.add_axes(((1.0 + side * column) / width, top / height, *size))
            axis.imshow(image, interpolation="nearest" if image.shape[0] < 64 else "antialiased")
            axis.set_axis_off()
            if index == 0:
                look = {"fontsize": 6.5, "fontweight": "normal", "color": style.FAINT}
                axis.set_title(str(labels[column]), loc="center", pad=2, **look)
    return figure
