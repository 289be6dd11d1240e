"""Figures of the method benchmark: scores against steps and against time, how VRPO differs from REPA during training, and what each ablation changes."""

from __future__ import annotations

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from vrpo.config.methods import MethodsOptions, run_name
from vrpo.reporting import style
from vrpo.reporting.curves import curves, say_seeds
from vrpo.reporting.diagnostics import compare
from vrpo.reporting.methods import labels
from vrpo.reporting.methods_verdict import score_name
from vrpo.reporting.results import main_sampler, over_seeds


def against_steps(options: MethodsOptions, metrics: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """A row for each score, a column for each process; a line for each method with a band over seeds."""
    return _panels(options, _compared(options, metrics), "training steps")


def against_time(options: MethodsOptions, metrics: pd.DataFrame, speed: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """As `against_steps`, over seconds of training at each run's median rate over seeds."""
    rates = speed["images_per_second"].groupby(speed["run"]).median() / speed["batch_size"].groupby(speed["run"]).first()
    rows = _compared(options, metrics)
    rows["step"] = rows["step"] / rows["run"].map(rates)
    return _panels(options, rows, "seconds of training")


def during_training(options: MethodsOptions, logged: pd.DataFrame, process: str) -> tuple[Figure, pd.DataFrame]:
    """The figure `diagnostics` of what is `diagnosed`, in its order, on one process."""
    diagnosed = options.diagnosed or {"REPA": options.chosen.repa, "VRPO": options.chosen.vrpo}
    rows = [logged[logged["run"] == run_name(process, name)].assign(label=label) for label, name in diagnosed.items()]
    chosen = pd.concat(rows, ignore_index=True)
    return compare(chosen, chosen["model"].iloc[0]) if len(chosen) else (style.nothing("nothing was logged by noise level"), chosen)


def changes(options: MethodsOptions, compared: pd.DataFrame, ablated: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """What each ablation, and REPA, has more than the chosen VRPO: a row for each score, a column for each process; intervals over seeds.

    Args:
        compared: of `methods.comparison`; REPA's change is what VRPO gained on it.
        ablated: of `methods.ablations`.
    """
    repa = compared[(compared["alignment"] == options.chosen.vrpo) & compared["process"].isin(ablated["process"])].assign(alignment="REPA")
    repa = repa.rename(columns={"gain": "change", "gain_low": "change_low", "gain_high": "change_high"})
    columns = ["process", "model", "score", "alignment", "seeds", "change", "change_low", "change_high"]
    data = pd.concat([ablated[columns], repa[columns]], ignore_index=True)
    scores, models = list(dict.fromkeys(data["score"])), list(dict.fromkeys(data["model"]))
    names = list(dict.fromkeys(data["alignment"]))
    figure, axes = style.panels(len(scores) * len(models), columns=len(models), height=0.7 + 0.15 * len(names), sharey=True)
    style.note(figure, f"against {options.chosen.vrpo}, seed by seed; 95% intervals over {data['seeds'].min()} seeds; grey where they hold 0")
    places = {name: height for height, name in enumerate(reversed(names))}
    for axis, (score, model) in zip(axes, ((score, model) for score in scores for model in models), strict=True):
        axis.axvline(0, color=style.FAINT, linewidth=0.8)
        for row in data[(data["score"] == score) & (data["model"] == model)].to_dict("records"):
            colour = style.FAINT if row["change_low"] <= 0 <= row["change_high"] else style.COLOURS["REPA" if row["alignment"] == "REPA" else "VRPO"]
            axis.plot([row["change_low"], row["change_high"]], [places[row["alignment"]]] * 2, color=colour)
            axis.plot(row["change"], places[row["alignment"]], "o", color=colour)
        axis.set(xlabel=f"{score_name(score)} more than VRPO's (worse →)", ylim=(-0.7, len(names) - 0.3))
        axis.set_title(style.model_title(model) if score == scores[0] else "")
        axis.set_yticks(list(places.values()), list(places))
    return figure, data


def _compared(options: MethodsOptions, metrics: pd.DataFrame) -> pd.DataFrame:
    names = labels(options, metrics)
    runs = {run: names[name] for process in options.processes for run, name in options.compared_runs(process).items()}
    rows = main_sampler(metrics)
    rows = rows[rows["run"].isin(runs)]
    return rows.assign(label=rows["run"].map(runs), process="")


def _panels(options: MethodsOptions, rows: pd.DataFrame, x: str) -> tuple[Figure, pd.DataFrame]:
    scores, models = list(filter(None, (options.held_out, options.validation))), list(dict.fromkeys(rows["model"]))
    by = ["model", "process", "run", "label", "step"]
    data = pd.concat([over_seeds(rows, by, score).assign(score=score) for score in scores], ignore_index=True)
    with matplotlib.rc_context(style.RC):
        figure, axes = style.panels(len(scores) * len(models), columns=len(models), height=2.4)
        say_seeds(figure, data)
        for index, (score, model) in enumerate((score, model) for score in scores for model in models):
            axis, lines = axes[index], data[(data["score"] == score) & (data["model"] == model)]
            role = "held out" if score == options.held_out else "seen by the search" if options.candidates else "second space"
            axis.set(title=style.model_title(model) if index < len(models) else "", ylabel=f"{score_name(score)}\n({role})" if index % len(models) == 0 else "")
            style.value_axis(axis, lines["least"].min(), lines["greatest"].max())
            curves(axis, lines, marker="o")
            axis.set_xlabel(x)
    return figure, data.rename(columns={"step": x.replace(" ", "_")})
