"""Numbers of the method benchmark: the search and its rule, the paired comparison, the ablations (docs/methods.md).

All runs of a process share seeds, data order, noise and sampling seeds, so differences are taken seed by seed; their intervals are those
of `bootstrap_interval`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from vrpo.config.alignments import ALIGNMENT_NAMES
from vrpo.config.methods import SEARCH, MethodsOptions, run_name, search_name
from vrpo.errors import UserError
from vrpo.reporting.bootstrap import bootstrap_interval
from vrpo.reporting.results import main_sampler
from vrpo.reporting.speedup import speedup, steps_to_reach

TIE = 0.01  # candidates whose score is within this part of the best one's are equally good


def search(options: MethodsOptions, metrics: pd.DataFrame) -> pd.DataFrame:
    """The candidates in their order, with the validation score at the last milestone.

    Columns: method (repa, vrpo), candidate, step, mean (geometric, over processes and seeds), <process>_<seed> for each process and seed,
    rule (what the rule takes), chosen (what the config names).
    """
    rows = []
    for method in ("repa", "vrpo") if options.candidates else ():
        names = getattr(options.candidates, method)
        last = {name: _searched(options, metrics, name) for name in names}
        means = {name: float(np.exp(np.mean(np.log(list(scores.values()))))) for name, (_, scores) in last.items()}
        taken = choose(means)
        for name, (step, scores) in last.items():
            row = {"method": method, "candidate": name, "step": step, "mean": means[name], **scores}
            rows.append({**row, "rule": name == taken, "chosen": options.chosen is not None and name == getattr(options.chosen, method)})
    return pd.DataFrame(rows)


def searched_columns(options: MethodsOptions) -> dict[str, tuple[str, int]]:
    """{column of `search`: (process, seed)}."""
    return {f"{process}_{seed}": (process, seed) for process in options.processes for seed in options.search_seeds}


def choose(means: Mapping[str, float]) -> str:
    """The rule: the lowest mean; of those within 1% of it, the one that stands first."""
    best = min(means.values())
    return next(name for name, mean in means.items() if mean <= best * (1 + TIE))


def disagreements(options: MethodsOptions, searched: pd.DataFrame) -> list[str]:
    """A sentence for each method where the config names another candidate than the rule gives; none where they agree."""
    sentences = []
    for method, rows in searched.groupby("method", sort=False) if len(searched) else ():
        taken = rows.loc[rows["rule"], "candidate"].iloc[0]
        named = getattr(options.chosen, method) if options.chosen else None
        if named is None:
            sentences.append(f"`methods.chosen.{method}` is not set; the rule gives `{taken}`.")
        elif named != taken:
            sentences.append(
                f"The config and the rule disagree: `methods.chosen.{method}` is `{named}`, the rule gives `{taken}`. What follows is for `{named}`."
            )
    return sentences


def labels(options: MethodsOptions, metrics: pd.DataFrame) -> dict[str, str]:
    """What each compared alignment is called: the chosen ones REPA and VRPO, others by the papers' names where those are unambiguous."""
    kinds = dict(zip(metrics["alignment"], metrics["kind"], strict=True))
    chosen = {getattr(options.chosen, method): ALIGNMENT_NAMES[method] for method in ("repa", "vrpo")}
    papers = {name: ALIGNMENT_NAMES.get(kinds.get(name), name) for name in options.compared if name not in chosen}
    taken = [*chosen.values(), *papers.values()]
    return {name: chosen.get(name) or (papers[name] if taken.count(papers[name]) == 1 else name) for name in options.compared}


def comparison(options: MethodsOptions, metrics: pd.DataFrame) -> pd.DataFrame:
    """A row for each process, compared alignment and score (held out first), against REPA.

    Columns: process, model, alignment, label, run, score, step, seeds, mean, std, gain (REPA's minus this one's), gain_low, gain_high,
    speedup, speedup_low, speedup_high (REPA's steps over those needed for its last score), reached (seeds in which it is), at_least; with one
    milestone the speed-up is NaN.
    """
    rows, names = [], labels(options, metrics)
    for process in options.processes:
        for score in filter(None, (options.held_out, options.validation)):
            base = _scores(options, metrics, run_name(process, options.chosen.repa), score)
            for run, name in options.compared_runs(process).items():
                ours = _scores(options, metrics, run, score)
                row = {"process": process, "model": _model(metrics, run), "alignment": name, "label": names[name], "run": run, "score": score}
                row |= {"step": int(ours.columns[-1]), "seeds": len(ours), "mean": ours.iloc[:, -1].mean(), "std": ours.iloc[:, -1].std(ddof=1)}
                rows.append({**row, **_against(ours, base)} if name != options.chosen.repa else row)
    return pd.DataFrame(rows)


def ablations(options: MethodsOptions, metrics: pd.DataFrame) -> pd.DataFrame:
    """A row for each process, ablation and score: how much worse (positive) or better it is than the chosen VRPO at the last milestone.

    Columns: process, model, alignment, run, score, step, seeds, mean, change, change_low, change_high.
    """
    rows = []
    for process in options.processes:
        for score in filter(None, (options.held_out, options.validation)):
            base = _scores(options, metrics, run_name(process, options.chosen.vrpo), score)
            for run, name in options.ablation_runs(process).items():
                ours, theirs = _paired(_scores(options, metrics, run, score), base)
                change = bootstrap_interval((ours.iloc[:, -1] - theirs.iloc[:, -1]).to_numpy())
                row = {"process": process, "model": _model(metrics, run), "alignment": name, "run": run, "score": score, "step": int(ours.columns[-1])}
                row |= {"seeds": len(ours), "mean": ours.iloc[:, -1].mean()}
                rows.append({**row, **dict(zip(("change", "change_low", "change_high"), change, strict=True))})
    return pd.DataFrame(rows)


def wall_time(options: MethodsOptions, compared: pd.DataFrame, speed: pd.DataFrame) -> pd.DataFrame:
    """What a training step costs beside REPA's, and the speed-up in time: that in steps over this cost.

    Columns: process, model, alignment, label, images_per_second (median over seeds), cost (REPA's rate over this one's), speedup, speedup_low, speedup_high.
    """
    rates = speed.groupby("run")["images_per_second"].median()
    rows = []
    for row in compared[compared["score"] == options.held_out].to_dict("records"):
        rate, base = rates[row["run"]], rates[run_name(row["process"], options.chosen.repa)]
        times = {key: row[key] * rate / base for key in ("speedup", "speedup_low", "speedup_high")}
        rows.append({**{key: row[key] for key in ("process", "model", "alignment", "label")}, "images_per_second": rate, "cost": base / rate, **times})
    return pd.DataFrame(rows)


def _searched(options: MethodsOptions, metrics: pd.DataFrame, name: str) -> tuple[int, dict[str, float]]:
    """A candidate's last milestone, and its validation scores there by `searched_columns`."""
    tables = {process: _scores(options, metrics, search_name(process, name), options.validation) for process in options.processes}
    step = int(tables[options.processes[0]].columns[-1])
    return step, {column: float(tables[process].loc[seed, step]) for column, (process, seed) in searched_columns(options).items()}


def _against(ours: pd.DataFrame, base: pd.DataFrame) -> dict[str, Any]:
    """Gain of a run over its base, seed by seed, and its speed-up, which one milestone alone cannot tell."""
    ours, base = _paired(ours, base)
    steps = ours.columns.to_list()
    gain = dict(zip(("gain", "gain_low", "gain_high"), bootstrap_interval((base.iloc[:, -1] - ours.iloc[:, -1]).to_numpy()), strict=True))
    if len(steps) == 1:
        return {**gain, **dict.fromkeys(("speedup", "speedup_low", "speedup_high", "reached"), math.nan), "at_least": False}
    pairs = [(ours.loc[seed].to_list(), base.loc[seed].to_list()) for seed in ours.index]
    ratios = [speedup(steps, mine, theirs) for mine, theirs in pairs]
    faster = np.exp(bootstrap_interval(np.log([ratio for ratio, _ in ratios])))
    return {
        **gain,
        **dict(zip(("speedup", "speedup_low", "speedup_high"), map(float, faster), strict=True)),
        "reached": sum(steps_to_reach(steps, mine, theirs[-1])[0] is not None for mine, theirs in pairs),
        "at_least": any(bound for _, bound in ratios),
    }


def _paired(ours: pd.DataFrame, base: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The milestones that both have: ablations may be scored at the last alone."""
    steps = ours.columns.intersection(base.columns)
    return ours[steps], base[steps]


def _scores(options: MethodsOptions, metrics: pd.DataFrame, run: str, score: str) -> pd.DataFrame:
    """A run's scores: a row for each seed that it should have, a column a milestone.

    Raises:
        UserError: a seed, a milestone or the score is missing.
    """
    rows = main_sampler(metrics)
    rows = rows[rows["run"] == run]
    if rows.empty or score not in rows or rows[score].isna().any():
        raise UserError(f"methods: run `{run}` has no score `{score}` in the collected results; run the benchmark (`snakemake methods`) to its end")
    seeds = options.search_seeds if run.startswith(SEARCH) else options.verdict_seeds
    table = rows.pivot_table(index="seed", columns="step", values=score).reindex(seeds)
    if len(partial := table.index[table.isna().any(axis=1)]):
        raise UserError(f"methods: run `{run}` lacks scores `{score}` of seed {partial[0]} in the collected results; run the benchmark to its end")
    return table


def _model(metrics: pd.DataFrame, run: str) -> str:
    return metrics.loc[metrics["run"] == run, "model"].iloc[0]
