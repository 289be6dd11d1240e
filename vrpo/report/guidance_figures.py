"""Figures of guidance: FID against its scale, and samples of every sampler."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.guidance import RepresentationGuidanceOptions
from vrpo.data.kinds import SAMPLES
from vrpo.data.shards import open_arrays
from vrpo.plan.jobs import guided
from vrpo.plan.paths import Paths
from vrpo.report import style
from vrpo.report.curves import lines, say_seeds
from vrpo.report.grid import image_grid
from vrpo.report.results import last_milestone, over_seeds, read_metrics

FREE, STEERED = "classifier-free guidance", "guidance by representation"
WITHOUT = {FREE: 1.0, STEERED: 0.0}  # the scale that is no guidance
BY = ["model", "process", "run", "label", "guidance", "scale"]


def scales(config: ExperimentConfig, collected: Path) -> tuple[Figure, pd.DataFrame]:
    """FID against the scale: a row for each model, a column for each kind of guidance.

    Of samplers whose guidance differs in its scale alone; the table has the others, too.
    """
    metrics = last_milestone(read_metrics(collected)).drop(columns="guidance", errors="ignore")
    data = over_seeds(metrics.merge(_points(config), on="sampler"), BY, "fid")
    data = data.sort_values("scale", kind="stable", ignore_index=True)
    places = list(product(dict.fromkeys(metrics["model"]), WITHOUT))
    places = [place for place in places if place[0] in set(data["model"])]
    if not places:
        return style.nothing("no samplers differ in the scale of their guidance alone"), data
    figure, axes = style.panels(len(places), columns=2)
    say_seeds(figure, data)
    for index, (axis, (model, kind)) in enumerate(zip(axes, places, strict=True)):
        of_model = data[data["model"] == model]
        rows = of_model[of_model["guidance"] == kind]
        axis.set(title=style.model_title(model) if index % 2 == 0 else "", ylabel="FID")
        axis.set_xlabel(f"scale of {kind}")
        style.value_axis(axis, of_model["least"].min(), of_model["greatest"].max())
        axis.set_ylim(0.9 * of_model["least"].min(), 1.1 * of_model["greatest"].max())
        style.label_ends(axis, lines(axis, rows, "scale", marker="o"))
    return figure, data


def samples(config: ExperimentConfig, collected: Path, process: str) -> tuple[Figure, pd.DataFrame]:
    """A row for each sampler of a process's last aligned run, of those with the first's labels."""
    keys = list(guided(config, process))
    least = min(config.report.grid_images, *(config.samplers[key[3]].images for key in keys))
    rows, data, shown = [], [], None
    for key in keys:
        arrays = open_arrays(Paths.of(config).samples(*key), SAMPLES)
        labels = arrays.rows("labels", slice(0, least)).tolist()
        shown = shown or labels
        if labels != shown:
            continue
        name = config.samplers[key[3]].guidance.name
        title = name.replace(", ", ",\n").replace(" (", "\n(")
        rows.append((title, "black", arrays.rows("images", slice(0, least))))
        data.append((*key, " ".join(map(str, labels))))
    figure = image_grid(rows, shown, real=None)
    return figure, pd.DataFrame(data, columns=["run", "seed", "step", "sampler", "labels"])


def _points(config: ExperimentConfig) -> pd.DataFrame:
    """Kind and scale of each sampler that belongs in the figure of scales.

    Of the kind of a process's first sampler that the representation guides; one for each scale.
    """
    points: dict[tuple[str, str, float], str] = {}
    others: dict[tuple[str, str], Any] = {}
    for name in _of_one_kind(config):
        solver, guidance = config.samplers[name].kind, config.samplers[name].guidance
        if guidance.name == "none":
            for kind, scale in WITHOUT.items():
                points.setdefault((solver, kind, scale), name)
        elif not guidance.rewarded or isinstance(guidance, RepresentationGuidanceOptions):
            kind = STEERED if guidance.rewarded else FREE
            options = guidance.model_dump(exclude={"scale"})
            if others.setdefault((solver, kind), options) == options:
                points.setdefault((solver, kind, guidance.scale), name)
    rows = [(name, kind, scale) for (_, kind, scale), name in points.items()]
    return pd.DataFrame(rows, columns=["sampler", "guidance", "scale"])


def _of_one_kind(config: ExperimentConfig) -> list[str]:
    names: list[str] = []
    for process in dict.fromkeys(options.kind for options in config.processes.values()):
        served = [name for name, each in config.samplers.items() if each.serves(process, True)]
        kinds = [config.samplers[name].kind for name in served]
        guided = [config.samplers[name].guidance.rewarded for name in served]
        if any(guided):
            chosen = kinds[guided.index(True)]
            names += [name for name, kind in zip(served, kinds, strict=True) if kind == chosen]
    return names
