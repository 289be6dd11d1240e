"""Figures of the report, from collected results: `fid`, `losses`, `rewards`, `samples`."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from vrpo.config.report import ReportOptions
from vrpo.report import style
from vrpo.report.curves import curves, say_seeds
from vrpo.report.grid import image_grid
from vrpo.report.results import main_sampler, over_seeds, read_metrics, read_samples, read_training

REWARDS = {
    "reward_fidelity": "fidelity",
    "reward_perceptual": "perceptual",
    "reward_semantic": "semantic",
}
UNLOGGED = "all trainings ended before their first row was logged (`resources.log_every`)"
LOSSES = {"denoising": "denoising loss", "alignment_loss": "alignment loss"}
BY = ["model", "process", "run", "label", "step"]  # a point of a curve over seeds


def fid(options: ReportOptions, collected: Path) -> tuple[Figure, pd.DataFrame]:
    """FID against training steps, a panel for each model, with a band over seeds."""
    data = over_seeds(main_sampler(read_metrics(collected)), BY, "fid")
    models = list(dict.fromkeys(data["model"]))
    figure, axes = style.panels(len(models), columns=3 if len(models) > 4 else 2)
    say_seeds(figure, data)
    for axis, model in zip(axes, models, strict=True):
        rows = data[data["model"] == model]
        axis.set(title=style.model_title(model), ylabel=_fid_label(options))
        style.value_axis(axis, rows["least"].min(), rows["greatest"].max())
        curves(axis, rows, marker="o")
    return figure, data


def losses(options: ReportOptions, collected: Path) -> tuple[Figure, pd.DataFrame]:
    """Losses against training steps: a row for each loss, a column for each model."""
    data = _long(read_training(collected), LOSSES)
    return (_histories(data, LOSSES) if len(data) else style.nothing(UNLOGGED)), data


def rewards(options: ReportOptions, collected: Path) -> tuple[Figure, pd.DataFrame]:
    """VRPO's rewards against training steps: a panel for each reward, a line for each model."""
    training = read_training(collected)
    data = _long(training[training["kind"] == "vrpo"], REWARDS)
    if data.empty:
        text = "no run of this experiment has rewards" if len(training) else UNLOGGED
        return style.nothing(text), data
    names = [name for name in REWARDS.values() if name in set(data["quantity"])]
    figure, axes = style.panels(len(names), columns=3, height=2.1)
    say_seeds(figure, data)
    for axis, name in zip(axes, names, strict=True):
        rows = data[data["quantity"] == name].copy()
        by_model = rows["run"].nunique() == rows["model"].nunique()
        rows["label"] = rows["model" if by_model else "run"]
        axis.set(title=f"{name} reward")
        curves(axis, rows, colour=style.COLOURS["VRPO"])
    return figure, data


def samples(options: ReportOptions, collected: Path) -> tuple[Figure, pd.DataFrame]:
    """A row for each run at its last milestone, from the same noise and labels.

    The last row shows real images of the same classes.
    """
    grid, metrics = read_samples(collected), read_metrics(collected)
    first = metrics.groupby("run", sort=False)[["model", "label"]].first()
    tints = style.colours(metrics["label"])
    rows = []
    for run, images in zip(map(str, grid["runs"]), grid["images"], strict=True):
        model, label = first.loc[run]
        rows.append((f"{model}\n{label}", tints[label], images))
    figure = image_grid(rows, grid["labels"][0], grid["real"])
    names = ("runs", "seeds", "steps", "samplers")
    data = pd.DataFrame({name.removesuffix("s"): grid[name] for name in names})
    labels = [" ".join(map(str, row)) for row in grid["labels"].tolist()]
    return figure, data.assign(labels=labels)


def _long(training: pd.DataFrame, quantities: dict[str, str]) -> pd.DataFrame:
    """Over seeds, a row for each (run, quantity, step) that was logged."""
    parts = [
        over_seeds(training, BY, column).assign(quantity=name)
        for column, name in quantities.items()
        if column in training
    ]
    if not parts:
        return pd.DataFrame(columns=[*BY, "mean", "least", "greatest", "seeds", "quantity"])
    return pd.concat(parts, ignore_index=True)


def _histories(data: pd.DataFrame, quantities: dict[str, str]) -> Figure:
    models = list(dict.fromkeys(data["model"]))
    names = [name for name in quantities.values() if name in set(data["quantity"])]
    beside = len(models) <= 3  # models are columns; many models are rows
    places = list(product(names, models) if beside else product(models, names))
    columns, height = (len(models), 2.0) if beside else (len(names), 1.6)
    figure, axes = style.panels(len(places), columns=columns, height=height, sharex="col")
    say_seeds(figure, data)
    for index, (axis, place) in enumerate(zip(axes, places, strict=True)):
        name, model = place if beside else reversed(place)
        rows = data[(data["model"] == model) & (data["quantity"] == name)]
        first_row, first_column = index < columns, index % columns == 0
        titles = style.model_title(model), name
        heading, side = titles if beside else reversed(titles)
        axis.set(title=heading if first_row else "", ylabel=side if first_column else "")
        if rows.empty:  # a model without alignment
            axis.set_axis_off()
            continue
        style.value_axis(axis, rows["least"].min(), rows["greatest"].max())
        curves(axis, rows)
        if index < len(places) - columns:
            axis.set_xlabel("")
    return figure


def _fid_label(options: ReportOptions) -> str:
    space = (options.metric_space or "").split(":")[0].split(",")[0].strip()
    return f"FID ({space})" if space else "FID"
