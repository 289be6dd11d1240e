"""The figure `representation`: linear probe and CKNNA over blocks (REPA's figures 2 and 3)."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vrpo.config.report import ReportOptions
from vrpo.report import style
from vrpo.report.curves import lines, seeds_and_bands
from vrpo.report.results import over_seeds, read_representation

PROBE = "probe_accuracy"
CKNNA = "cknna_"


def representation(options: ReportOptions, collected: Path) -> tuple[Figure, pd.DataFrame]:
    """A row for each quantity, a column for each model, a line for each alignment.

    Shown is the middle one of the measured noise levels; the data hold all of them.
    """
    by = ["model", "process", "run", "label", "step", "noise_level", "quantity", "block"]
    data = over_seeds(read_representation(collected), by, "value")
    if data.empty:
        text = "the hidden representations of this experiment were not measured"
        return style.nothing(text), data
    levels = sorted(set(data["noise_level"]))
    level = levels[len(levels) // 2]
    shown = data[data["noise_level"] == level]
    models, quantities = list(dict.fromkeys(shown["model"])), list(dict.fromkeys(shown["quantity"]))
    places = list(product(quantities, models))
    look = {"columns": len(models), "height": 2.0, "sharex": "col", "sharey": "row"}
    figure, axes = style.panels(len(places), **look)
    style.note(figure, f"noise level {level:g}; {seeds_and_bands(data)}")
    names = []
    for index, (quantity, model) in enumerate(places):
        axis, rows = axes[index], shown[(shown["model"] == model) & (shown["quantity"] == quantity)]
        ends = lines(axis, rows, "block", marker="o")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.set(
            title=style.model_title(model) if index < len(models) else "",
            xlabel="block" if index >= len(places) - len(models) else "",
            ylabel=_name(quantity) if index % len(models) == 0 else "",
        )
        blocks = np.array(sorted(set(rows["block"])))
        margin = 0.03 * max(1, np.ptp(blocks))
        axis.set_xlim(blocks[0] - margin, blocks[-1] + margin)
        names.append((axis, ends))
    for axis, ends in names:  # when the shared axes have their limits
        style.label_ends(axis, ends)
    return figure, data


def _name(quantity: str) -> str:
    is_probe = quantity == PROBE
    return "linear probe accuracy" if is_probe else f"CKNNA with {quantity.removeprefix(CKNNA)}"
