"""Figures of the method benchmark: scores, diagnostics of the trainings, changes by ablation."""

from __future__ import annotations

from itertools import product

import pandas as pd
from matplotlib.figure import Figure

from vrpo.benchmark.numbers import Benchmark
from vrpo.benchmark.verdict import score_name
from vrpo.config.benchmark import run_name
from vrpo.report import style
from vrpo.report.curves import curves, say_seeds
from vrpo.report.diagnostics import compare
from vrpo.report.results import main_sampler, over_seeds, read_diagnostics, read_speed


def against_steps(benchmark: Benchmark) -> tuple[Figure, pd.DataFrame]:
    """A row for each score, a column for each process; a line for each method."""
    return _panels(benchmark, _compared(benchmark), "training steps")


def against_time(benchmark: Benchmark) -> tuple[Figure, pd.DataFrame]:
    """As `against_steps`, over seconds of training at each run's median rate over seeds."""
    speed = read_speed(benchmark.folder)
    rates = benchmark.rates / speed["batch_size"].groupby(speed["run"]).first()
    rows = _compared(benchmark)
    rows["step"] = rows["step"] / rows["run"].map(rates)
    return _panels(benchmark, rows, "seconds of training")


def during_training(benchmark: Benchmark, process: str) -> tuple[Figure, pd.DataFrame]:
    """The figure `diagnostics` of the alignments `diagnosed`, in their order, on one process."""
    options, logged = benchmark.options, read_diagnostics(benchmark.folder)
    chosen = (options.repa, options.vrpo)
    diagnosed = options.diagnosed or {benchmark.labels[name]: name for name in chosen}
    runs = {label: run_name(process, name) for label, name in diagnosed.items()}
    rows = [logged[logged["run"] == run].assign(label=label) for label, run in runs.items()]
    data = pd.concat(rows, ignore_index=True)
    if data.empty:
        return style.nothing("nothing was logged by noise level"), data
    return compare(data, data["model"].iloc[0])


def changes(benchmark: Benchmark) -> tuple[Figure, pd.DataFrame]:
    """Change of the scores from the chosen VRPO to each ablation and to REPA.

    A row for each score, a column for each process; intervals over seeds.
    """
    options, compared, ablated = benchmark.options, benchmark.compared, benchmark.ablated
    changed = ["change", "change_low", "change_high"]
    gained = dict(zip(["gain", "gain_low", "gain_high"], changed, strict=True))
    repa = compared[compared["alignment"] == options.vrpo].rename(columns=gained)
    repa = repa[repa["process"].isin(ablated["process"])].assign(alignment="REPA")
    columns = ["process", "model", "score", "alignment", "seeds", *changed]
    data = pd.concat([ablated[columns], repa[columns]], ignore_index=True)
    scores, models = list(dict.fromkeys(data["score"])), list(dict.fromkeys(data["model"]))
    names = list(dict.fromkeys(data["alignment"]))
    chosen = benchmark.labels[options.vrpo]
    height = 0.7 + 0.15 * len(names)
    count = len(scores) * len(models)
    figure, axes = style.panels(count, columns=len(models), height=height, sharey=True)
    interval = f"95% intervals over {data['seeds'].min()} seeds; grey where they hold 0"
    style.note(figure, f"against {options.vrpo}, seed by seed; {interval}")
    places = {name: height for height, name in enumerate(reversed(names))}
    for axis, (score, model) in zip(axes, product(scores, models), strict=True):
        axis.axvline(0, color=style.FAINT, linewidth=0.8)
        for row in data[(data["score"] == score) & (data["model"] == model)].to_dict("records"):
            low, high, place = row["change_low"], row["change_high"], places[row["alignment"]]
            colour = style.COLOURS["REPA" if row["alignment"] == "REPA" else "VRPO"]
            colour = style.FAINT if low <= 0 <= high else colour
            axis.plot([low, high], [place, place], color=colour)
            axis.plot(row["change"], place, "o", color=colour)
        axis.set_xlabel(f"{score_name(score)} more than {chosen}'s (worse →)")
        axis.set_ylim(-0.7, len(names) - 0.3)
        axis.set_title(style.model_title(model) if score == scores[0] else "")
        axis.set_yticks(list(places.values()), list(places))
    return figure, data


def _compared(benchmark: Benchmark) -> pd.DataFrame:
    options, rows = benchmark.options, main_sampler(benchmark.metrics)
    runs: dict[str, str] = {}
    for process in options.processes:
        runs |= options.compared_runs(process)
    rows = rows[rows["run"].isin(runs)]
    return rows.assign(label=rows["run"].map(runs).map(benchmark.labels), process="")


def _panels(benchmark: Benchmark, rows: pd.DataFrame, x: str) -> tuple[Figure, pd.DataFrame]:
    options, by = benchmark.options, ["model", "process", "run", "label", "step"]
    scores, models = benchmark.scores, list(dict.fromkeys(rows["model"]))
    second = "seen by the search" if options.candidates else "second space"
    parts = [over_seeds(rows, by, score).assign(score=score) for score in scores]
    data = pd.concat(parts, ignore_index=True)
    figure, axes = style.panels(len(scores) * len(models), columns=len(models), height=2.4)
    say_seeds(figure, data)
    for index, (score, model) in enumerate(product(scores, models)):
        axis, lines = axes[index], data[(data["score"] == score) & (data["model"] == model)]
        role = "held out" if score == options.held_out else second
        axis.set(
            title=style.model_title(model) if index < len(models) else "",
            ylabel=f"{score_name(score)}\n({role})" if index % len(models) == 0 else "",
        )
        style.value_axis(axis, lines["least"].min(), lines["greatest"].max())
        curves(axis, lines, marker="o")
        axis.set_xlabel(x)
    return figure, data.rename(columns={"step": x.replace(" ", "_")})
