"""The look of all figures: a colour for each alignment, a line style for each process.

Lines are labelled at their ends. The same data gives the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from vrpo.files import atomic_output, write_text

matplotlib.use("agg")
logging.getLogger("fontTools").setLevel(logging.WARNING)  # it reports every glyph

WIDTH = 6.75  # inches: the text width of a two-column paper
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {"none": "#666666", "REPA": "#0072B2", "VRPO": "#D55E00"}
OTHER_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7A5195")
LINES = {"interpolant": "-", "ddpm": (0, (5, 1.6))}
FAINT = "#707070"

RC = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.minor.visible": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "figure.dpi": 250,  # for the layout: text has another width at another resolution
    "savefig.dpi": 250,
    "pdf.fonttype": 42,
}


def applied() -> AbstractContextManager[None]:
    """The context in which figures are made and saved."""
    return matplotlib.rc_context(RC)


def colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each label: the same for none, REPA and VRPO in every figure.

    One reduced form, e.g. `VRPO (fidelity only)`, has VRPO's colour where VRPO is absent.
    """
    labels = list(dict.fromkeys(labels))
    chosen = {label: COLOURS[label] for label in labels if label in COLOURS}
    reduced = [label for label in labels if label.startswith("VRPO (")]
    if len(reduced) == 1 and "VRPO" not in chosen:
        chosen[reduced[0]] = COLOURS["VRPO"]
    others = [label for label in labels if label not in chosen]
    return chosen | {label: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, label in enumerate(others)}


def panels(
    count: int, columns: int, height: float = 2.3, **keywords: object
) -> tuple[Figure, np.ndarray]:
    """A figure of the text width with `count` panels, as a flat array; spare places are empty."""
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **keywords).ravel()
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def model_title(model: str) -> str:
    """Title of a model's panel; the part in brackets is on its own line."""
    return model.replace(" (", "\n(")


def step_axis(axis: Axes, first: float, last: float) -> None:
    """Training steps from `first` to `last` on the x axis, as 500 or 50k."""

    def text(value: float, _: int) -> str:
        return f"{value / 1000:g}k" if last >= 10_000 and value else f"{value:g}"

    margin = 0.03 * (last - first)
    limits = (first - margin, last + margin) if last > first else (0, 2 * last)
    axis.set(xlabel="training steps", xlim=limits)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(text))


def value_axis(axis: Axes, least: float, greatest: float) -> None:
    """A logarithmic y axis with plain numbers, where values span more than a factor of four."""
    if least > 0 and greatest > 4 * least:
        finer, fine = greatest < 30 * least, greatest < 300 * least
        ticks = (1, 2, 3, 5) if finer else (1, 2, 5) if fine else (1,)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=ticks, numticks=30))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(axis="y", which="minor", left=False)


def marker_of(line: pd.DataFrame) -> str | None:
    """Marker of a line; a line of one value would be invisible without."""
    return "o" if len(line) == 1 else None


def nothing(text: str) -> Figure:
    """A figure that says why there is nothing to show."""
    figure, (axis,) = panels(1, columns=1, height=1.0)
    axis.set_axis_off()
    axis.text(0.5, 0.5, text, ha="center", va="center", color=FAINT)
    return figure


def note(figure: Figure, text: str) -> None:
    """A line of small print below the panels."""
    height, bottom = 0.16 / figure.get_figheight(), 0.02 / figure.get_figheight()
    figure.get_layout_engine().set(rect=(0, height, 1, 1 - height))
    figure.text(0.995, bottom, text, ha="right", va="bottom", fontsize=6.5, color=FAINT)


def label_ends(axis: Axes, ends: list[tuple[float, float, str, str]], gap: float = 9.5) -> None:
    """Write each line's name right of all lines, at the height of its end.

    Names are moved up or down to keep `gap` points from each other.

    Args:
        axis: with its limits and scale set.
        ends: (x, y, name, colour) of each line.
        gap: distance between two names, in points.
    """
    if not ends:
        return
    to_points = 72 / axis.figure.dpi
    axis.figure.draw_without_rendering()
    wanted = np.array([axis.transData.transform((x, y))[1] for x, y, _, _ in ends]) * to_points
    order = np.argsort(wanted, kind="stable")
    right = max(x for x, *_ in ends)
    floor = axis.bbox.y0 * to_points + gap / 2  # above the x axis
    placed = np.maximum(_spread(wanted[order], gap), floor + gap * np.arange(len(ends)))
    for index, height in zip(order, placed, strict=True):
        _, y, name, colour = ends[index]
        offset = {"xytext": (5, height - wanted[index]), "textcoords": "offset points"}
        font = {"color": colour, "fontsize": 7.5, "fontweight": "bold", "va": "center"}
        axis.annotate(name, (right, y), **offset, **font, annotation_clip=False)


def _spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Ascending heights, moved as little as needed to keep `gap`.

    Neighbours that are too close become one block around their mean.
    """
    blocks = [[height] for height in heights]
    at = 0
    while at + 1 < len(blocks):
        below, above = blocks[at], blocks[at + 1]
        top = np.mean(below) + gap * (len(below) - 1) / 2
        bottom = np.mean(above) - gap * (len(above) - 1) / 2
        if top + gap > bottom:
            blocks[at : at + 2] = [below + above]
            at = max(at - 1, 0)
        else:
            at += 1
    placed = []
    for block in blocks:
        mean, middle = np.mean(block), (len(block) - 1) / 2
        placed += [mean + gap * (i - middle) for i in range(len(block))]
    return np.array(placed)


def _settle(figure: Figure) -> None:
    """Fix the panels where the layout has put them, to 1e-6 of the figure.

    The last digits of the layout's solver depend on memory addresses.
    """
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axis in figure.axes:
            axis.set_position([round(float(edge), 6) for edge in axis.get_position().bounds])


def save(figure: Figure, data: pd.DataFrame, output: Path) -> None:
    """Write `output` as .pdf and .png, and the .csv behind it; equal data gives equal bytes."""
    _settle(figure)
    undated = dict.fromkeys(["CreationDate", "Creator", "Producer"])
    with atomic_output(output.with_suffix(".pdf")) as partial:
        figure.savefig(partial, format="pdf", metadata=undated)
    with atomic_output(output.with_suffix(".png")) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    write_text(output.with_suffix(".csv"), data.to_csv(index=False, lineterminator="\n"))
