"""The figure `diagnostics`: VRPO and REPA during training, by noise level and over the steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vrpo.config.report import ReportOptions
from vrpo.report import style
from vrpo.report.curves import curves, say_seeds
from vrpo.report.results import over_seeds, read_diagnostics, read_metrics

MOMENTS = (0.1, 0.4, 1.0)  # parts of the training, drawn from light to dark
STRENGTHS = (0.3, 0.6, 1.0)
LINES = (  # first, second and further labels: where lines are equal, each shows below the next
    {"linewidth": 2.6, "linestyle": "-"},
    {"linewidth": 1.4, "linestyle": "-"},
    {"linewidth": 1.4, "linestyle": (0, (2.5, 2.5))},
)
BY_LEVEL = {
    "error": "denoising error",
    "perceptual": "perceptual reward",
    "semantic": "semantic reward",
    "weight": "weight of the alignment",
    "pathwise_fidelity": "fidelity weight",
    "pathwise_perceptual": "perceptual weight",
    "pathwise_semantic": "semantic weight",
    "agreement": "agreement of gradients",
}
WIDE = [  # over several orders of magnitude
    title for name, title in BY_LEVEL.items() if name.startswith(("error", "pathwise"))
]
LEAST_RANGE = {BY_LEVEL["weight"]: (0.8, 1.2)}  # so that noise is not drawn as large as an effect
SHARES = r"advantage_\d+"  # of the rollouts, in equal parts of the advantage's range, from below
OVER_STEPS = {
    "agreement": "agreement of gradients",
    "kl": "KL to encoder's policy / κ",
    "clipped": "share of clipped ratios",
}
KEYS = ["run", "label", "process"]
Looks = dict[str, dict[str, Any]]  # how the lines of each label are drawn


def diagnostics(options: ReportOptions, collected: Path) -> tuple[Figure, pd.DataFrame]:
    """VRPO and REPA of the first model that has VRPO: the first run of each."""
    logged = read_diagnostics(collected)
    ours = logged[logged["kind"] == "vrpo"]
    if ours.empty:
        trained = (read_metrics(collected)["kind"] == "vrpo").any()
        unlogged = "the trainings with VRPO ended before their first row was logged"
        text = unlogged if trained else "no run of this experiment is VRPO"
        return style.nothing(text), pd.DataFrame(columns=[*KEYS, "quantity", "step", "noise_level"])
    run, model = ours["run"].iloc[0], ours["model"].iloc[0]
    rivals = logged.loc[(logged["kind"] == "repa") & (logged["model"] == model), "run"].unique()[:1]
    chosen = logged[logged["run"].isin([*rivals, run])]
    chosen = chosen.assign(label=chosen["name"]).sort_values("kind", kind="stable")
    return compare(chosen, model)


def compare(logged: pd.DataFrame, model: str) -> tuple[Figure, pd.DataFrame]:
    """A panel for each quantity that one of the runs logged.

    Args:
        logged: rows of `diagnostics.csv` of runs of REPA and VRPO, named in the column `label`.
        model: the title.
    """
    data = _long(logged)
    labels = list(dict.fromkeys(data["label"]))
    tints, looks = style.colours(labels), {}
    for place, label in enumerate(labels):
        looks[label] = {"color": tints[label], **LINES[min(place, len(LINES) - 1)]}
    by_level, overall = data[data["noise_level"].notna()], data[data["noise_level"].isna()]
    shares = overall[overall["quantity"].str.fullmatch(SHARES)]
    levels = [name for name in BY_LEVEL if name in set(by_level["quantity"])]
    steps = [name for name in OVER_STEPS if name in set(overall["quantity"])]
    count = len(levels) + (not shares.empty) + len(steps)
    figure, axes = style.panels(count, columns=3, height=1.75)
    say_seeds(figure, data)
    free = iter(axes)
    for name in levels:
        _by_level(next(free), by_level[by_level["quantity"] == name], BY_LEVEL[name], looks)
    if not shares.empty:
        _distribution(next(free), shares, looks)
    for name in steps:
        _over_steps(next(free), overall[overall["quantity"] == name], OVER_STEPS[name])
    handles = [Line2D([], [], label=label, **looks[label]) for label in labels]
    title = f"{model}; by noise level, {_moments_text(by_level)}"
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(handles),
        frameon=False,
        fontsize=7.5,
        title=title,
        alignment="left",
        title_fontsize=8,
    )
    return figure, data


def _long(logged: pd.DataFrame) -> pd.DataFrame:
    """Each quantity over seeds, by step and noise level.

    Rows without `noise_level` are its means over noise levels.
    """
    kl = 1 - logged["semantic"] if "semantic" in logged else np.nan  # over kappa, so of any policy
    logged = logged.assign(error=-logged["fidelity"], kl=kl)
    shares = [name for name in logged if re.fullmatch(SHARES, name)]
    wanted = dict.fromkeys([*BY_LEVEL, *OVER_STEPS, *shares])
    quantities = [name for name in wanted if name in logged and logged[name].notna().any()]
    overall = logged.groupby([*KEYS, "seed", "step"], sort=False)[quantities].mean().reset_index()
    parts = [
        over_seeds(rows, by, name).assign(quantity=name)
        for rows, by in ((logged, [*KEYS, "step", "noise_level"]), (overall, [*KEYS, "step"]))
        for name in quantities
    ]
    return pd.concat(parts, ignore_index=True)


def _by_level(axis: Axes, rows: pd.DataFrame, title: str, looks: Looks) -> None:
    axis.set(title=title, xlabel="noise level", xlim=(0, 1))
    for line, look in _at_moments(rows, looks):
        line = line.sort_values("noise_level")
        axis.plot(line["noise_level"], line["mean"], marker=style.marker_of(line), **look)
    if title in WIDE:
        style.value_axis(axis, rows["mean"].min(), rows["mean"].max())
    if title in LEAST_RANGE:
        low, high = LEAST_RANGE[title]
        axis.set_ylim(min(low, 1.05 * rows["mean"].min()), max(high, 1.05 * rows["mean"].max()))


def _distribution(axis: Axes, rows: pd.DataFrame, looks: Looks) -> None:
    """Shares of the rollouts in parts of the range of the advantage."""
    axis.set(title="rollouts by advantage", xlabel="advantage over its bound", xlim=(-1, 1))
    for shares, look in _at_moments(rows, looks):
        edges = np.linspace(-1, 1, len(shares) + 1)
        axis.stairs(shares.sort_values("quantity")["mean"], edges, **look)
    axis.set_ylim(0, None)


def _at_moments(rows: pd.DataFrame, looks: Looks) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """The rows of each label at each of `MOMENTS`, and how they are drawn."""
    for label, lines in rows.groupby("label", sort=False):
        strengths = dict(zip(moments(lines["step"]), STRENGTHS, strict=True))
        for step, strength in strengths.items():  # of equal moments the last one
            look = {**looks[label], "color": _lighter(looks[label]["color"], strength)}
            yield lines[lines["step"] == step], look


def moments(steps: Iterable[int]) -> list[int]:
    """Of the `steps` that were logged those nearest to `MOMENTS`."""
    logged = np.array(sorted(set(steps)))
    return [int(logged[np.argmin(np.abs(logged - moment * logged[-1]))]) for moment in MOMENTS]


def _moments_text(rows: pd.DataFrame) -> str:
    """Which moments are drawn, where those of a short training may be one."""
    different = {len(set(moments(lines["step"]))) for _, lines in rows.groupby("label", sort=False)}
    if different == {1}:
        return "at the end of the training"
    if different != {len(MOMENTS)}:
        return "light to dark in the order of the steps"
    parts = ", ".join(f"{moment:.0%}" for moment in MOMENTS[:-1])
    return f"light to dark: after {parts} of the training, and at its end"


def _lighter(colour: str, strength: float) -> np.ndarray:
    """`colour` mixed with white, not transparent, as lines overlap."""
    return 1 - strength * (1 - np.array(to_rgb(colour)))


def _over_steps(axis: Axes, rows: pd.DataFrame, title: str) -> None:
    axis.set(title=title)
    if rows["greatest"].max() == 0:  # on policy
        axis.set_ylim(-0.05, 1)
    curves(axis, rows.assign(process=""))
