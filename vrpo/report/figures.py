"""Figures of the report, each from collected results alone: `fid`, `losses`, `rewards`, `samples`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from vrpo.config.report import ReportOptions
from vrpo.report import style
from vrpo.report.curves import curves, say_seeds
from vrpo.report.results import main_sampler, over_seeds, read_metrics, read_samples, read_training

REWARDS = {
    "reward_fidelity": "fidelity",
    "reward_perceptual": "perceptual",
    "reward_semantic": "semantic",
}
UNLOGGED = "all trainings ended before their first row was logged (`resources.log_every`)"
LOSSES = {"denoising": "denoising loss", "alignment_loss": "alignment loss"}


def fid(options: ReportOptions, collected: Path) -> tuple[Figure, pd.DataFrame]:
    """FID against training steps, a panel for each model, with a band from the least to the greatest seed."""
    data = over_seeds(
        main_sampler(read_metrics(collected)), ["model", "process", "run", "label", "step"], "fid"
    )
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
    """Denoising and alignment loss against training steps: a row for each loss, a column for each model."""
    data = _long(read_training(collected), LOSSES)
    return (_histories(data, LOSSES) if len(data) else style.nothing(UNLOGGED)), data


def rewards(options: ReportOptions, collected: Path) -> tuple[Figure, pd.DataFrame]:
    """VRPO's rewards against training steps: a panel for each reward, a line for each model."""
    training = read_training(collected)
    data = _long(training[training["kind"] == "vrpo"], REWARDS)
    if data.empty:
        return style.nothing(
            "no run of this experiment has rewards" if len(training) else UNLOGGED
        ), data
    names = [name for name in REWARDS.values() if name in set(data["quantity"])]
    figure, axes = style.panels(len(names), columns=3, height=2.1)
    say_seeds(figure, data)
    for axis, name in zip(axes, names, strict=True):
        rows = data[data["quantity"] == name].copy()
        rows["label"] = (
            rows["model"] if rows["run"].nunique() == rows["model"].nunique() else rows["run"]
        )
        axis.set(title=f"{name} reward")
        curves(axis, rows, colour=style.COLOURS["VRPO"])
    return figure, data


def samples(options: ReportOptions, collected: Path) -> tuple[Figure, pd.DataFrame]:
    """Rows: each run at its last milestone, all from the same noise and labels; the last row is real images of the same classes."""
    grid, metrics = read_samples(collected), read_metrics(collected)
    titles = {
        run: f"{rows['model'].iloc[0]}\n{rows['label'].iloc[0]}"
        for run, rows in metrics.groupby("run", sort=False)
    }
    tints = style.colours(metrics["label"])
    rows = [*grid["images"], grid["real"]]
    count = len(grid["real"])
    side = min(0.62, (style.WIDTH - 1.0) / count)
    width, height = 1.0 + side * count, side * len(rows) + 0.30
    figure = Figure(figsize=(width, height))
    for index, images in enumerate(rows):
        top = height - 0.22 - side * (index + 1) - (0.06 if index == len(rows) - 1 else 0)
        run = str(grid["runs"][index]) if index < len(grid["runs"]) else None
        label = metrics.loc[metrics["run"] == run, "label"].iloc[0] if run else None
        figure.text(
            0.93 / width,
            (top + side / 2) / height,
            titles[run] if run else "real",
            ha="right",
            va="center",
            fontsize=7,
            color=tints.get(label, "black"),
        )
        for column, image in enumerate(images):
            axis = figure.add_axes(
                (
                    (1.0 + side * column) / width,
                    top / height,
                    side * 0.96 / width,
                    side * 0.96 / height,
                )
            )
            axis.imshow(image, interpolation="nearest" if image.shape[0] < 64 else "antialiased")
            axis.set_axis_off()
            if index == 0:
                axis.set_title(
                    str(grid["labels"][0][column]),
                    fontsize=6.5,
                    fontweight="normal",
                    color=style.FAINT,
                    loc="center",
                    pad=2,
                )
    names = ("runs", "seeds", "steps", "samplers")
    data = pd.DataFrame({name.removesuffix("s"): grid[name] for name in names}).assign(
        labels=[" ".join(map(str, row)) for row in grid["labels"].tolist()]
    )
    return figure, data


def _long(training: pd.DataFrame, quantities: dict[str, str]) -> pd.DataFrame:
    """Over seeds, a row for each (run, quantity, step) that was logged."""
    by = ["model", "process", "run", "label", "step"]
    parts = [
        over_seeds(training, by, column).assign(quantity=name)
        for column, name in quantities.items()
        if column in training
    ]
    return (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=[*by, "mean", "least", "greatest", "seeds", "quantity"])
    )


def _histories(data: pd.DataFrame, quantities: dict[str, str]) -> Figure:
    models = list(dict.fromkeys(data["model"]))
    names = [name for name in quantities.values() if name in set(data["quantity"])]
    beside = len(models) <= 3  # models stand beside each other; many stand one below the other
    places = (
        [(name, model) for name in names for model in models]
        if beside
        else [(name, model) for model in models for name in names]
    )
    columns = len(models) if beside else len(names)
    figure, axes = style.panels(
        len(places), columns=columns, height=2.0 if beside else 1.6, sharex="col"
    )
    say_seeds(figure, data)
    for index, (axis, (name, model)) in enumerate(zip(axes, places, strict=True)):
        rows = data[(data["model"] == model) & (data["quantity"] == name)]
        first_row, first_column = index < columns, index % columns == 0
        heading, side = (
            (style.model_title(model), name) if beside else (name, style.model_title(model))
        )
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
