"""Lines over training with a band over seeds, as most figures have them."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vrpo.reporting import style
from vrpo.reporting.results import seeds_text


def curves(axis: Axes, rows: pd.DataFrame, marker: str | None = None, colour: str | None = None) -> None:
    """A line for each run with its name at its end, and a band over seeds; a run with one value is a point."""
    tints = style.colours(rows["label"])
    ends = []
    for _, line in rows.groupby("run", sort=False):
        label, process = line["label"].iloc[0], line["process"].iloc[0]
        tint = colour or tints[label]
        axis.plot(line["step"], line["mean"], color=tint, linestyle=style.LINES.get(process, "-"), marker=marker or style.marker_of(line))
        axis.fill_between(line["step"], line["least"], line["greatest"], color=tint, alpha=0.18, linewidth=0)
        ends.append((line["step"].iloc[-1], line["mean"].iloc[-1], label, tint))
    style.step_axis(axis, rows["step"].min(), rows["step"].max())
    style.label_ends(axis, ends)


def say_seeds(figure: Figure, data: pd.DataFrame) -> None:
    """Small print: over how many seeds `data` are means, and what bands show."""
    if len(data):
        style.note(figure, seeds_and_bands(data))


def seeds_and_bands(data: pd.DataFrame) -> str:
    """As `say_seeds`."""
    text = seeds_text(data["seeds"])
    return text if data["seeds"].max() == 1 else f"{text}; bands: from the least to the greatest"
