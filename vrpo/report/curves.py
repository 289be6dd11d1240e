"""Lines over training with a band over seeds, as most figures have them."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vrpo.report import style
from vrpo.report.results import seeds_text


def lines(
    axis: Axes,
    rows: pd.DataFrame,
    x: str,
    marker: str | None = None,
    colour: str | None = None,
) -> list[tuple[float, float, str, str]]:
    """A line for each run over `x`, with a band over seeds; returns the ends, for their names."""
    tints = style.colours(rows["label"])
    ends = []
    for _, line in rows.groupby("run", sort=False):
        label, process = line["label"].iloc[0], line["process"].iloc[0]
        tint, dashes = colour or tints[label], style.LINES.get(process, "-")
        mark = marker or style.marker_of(line)
        axis.plot(line[x], line["mean"], color=tint, linestyle=dashes, marker=mark)
        band = line["least"], line["greatest"]
        axis.fill_between(line[x], *band, color=tint, alpha=0.18, linewidth=0)
        ends.append((line[x].iloc[-1], line["mean"].iloc[-1], label, tint))
    return ends


def curves(axis: Axes, rows: pd.DataFrame, **look: str) -> None:
    """Lines over training steps with their names at the ends; a run with one value is a point."""
    ends = lines(axis, rows, "step", **look)
    style.step_axis(axis, rows["step"].min(), rows["step"].max())
    style.label_ends(axis, ends)


def say_seeds(figure: Figure, data: pd.DataFrame) -> None:
    """Small print: over how many seeds `data` are means, and what bands show."""
    if len(data):
        style.note(figure, seeds_and_bands(data))


def seeds_and_bands(data: pd.DataFrame) -> str:
    """The text of `say_seeds`."""
    text = seeds_text(data["seeds"])
    return text if data["seeds"].max() == 1 else f"{text}; bands: from the least to the greatest"
