"""Numbers of the method benchmark: the search and its rule, the comparison, the ablations.

The rule and the budget are in docs/methods.md, the paired comparisons in `compare`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vrpo.config.described import ALIGNMENT_NAMES
from vrpo.config.methods import SEARCH, MethodsOptions, run_name, search_name
from vrpo.config.options import ReportOptions
from vrpo.errors import UserError
from vrpo.reporting.compare import by_seed, paired_gain, paired_speedup
from vrpo.reporting.results import main_sampler, read_csv, read_metrics, read_speed

TIE = 0.01  # candidates whose score is within this part of the best one's are equally good
METHODS = ("repa", "vrpo")  # that are searched
COMPARED = [
    *("process", "model", "alignment", "label", "run", "score", "step", "seeds", "mean", "std"),
    *("gain", "gain_low", "gain_high", "speedup", "speedup_low", "speedup_high"),
    *("reached", "at_least"),
]
ABLATED = [
    *("process", "model", "alignment", "run", "score", "step", "seeds", "mean"),
    *("change", "change_low", "change_high"),
]


@dataclass(frozen=True)
class Benchmark:
    """The benchmark's numbers, from a folder of collected results or from a snapshot of them."""

    options: MethodsOptions
    report: ReportOptions
    folder: Path

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Scores."""
        return read_metrics(self.folder)

    @cached_property
    def searched(self) -> pd.DataFrame:
        """`search`."""
        return search(self.options, self.metrics)

    @cached_property
    def compared(self) -> pd.DataFrame:
        """`comparison`."""
        return comparison(self.options, self.metrics)

    @cached_property
    def ablated(self) -> pd.DataFrame:
        """`ablations`."""
        return ablations(self.options, self.metrics)

    @cached_property
    def rates(self) -> pd.Series:
        """Images per second of each run, median over seeds; of a snapshot, from wall_time.csv."""
        if not (self.folder / "wall_time.csv").exists():
            return read_speed(self.folder).groupby("run")["images_per_second"].median()
        needed = ["process", "alignment", "images_per_second"]
        rows = read_csv(self.folder / "wall_time.csv", needed)[needed].itertuples(index=False)
        return pd.Series({run_name(process, name): rate for process, name, rate in rows})


def search(options: MethodsOptions, metrics: pd.DataFrame) -> pd.DataFrame:
    """The candidates in their order, with the validation score at the last milestone.

    Columns: method (repa, vrpo), candidate, step, mean (geometric, over processes and seeds),
    <process>_<seed> for each process and seed, rule (the rule takes it), chosen (the config names
    it).
    """
    rows = []
    for method in METHODS if options.candidates else ():
        named, names = getattr(options.chosen, method, None), getattr(options.candidates, method)
        last = {name: _searched(options, metrics, name) for name in names}
        means = {name: np.exp(np.log(list(row.values())).mean()) for name, (_, row) in last.items()}
        taken = choose(means)
        for name, (step, scores) in last.items():
            row = {"method": method, "candidate": name, "step": step, "mean": means[name], **scores}
            rows.append({**row, "rule": name == taken, "chosen": name == named})
    return pd.DataFrame(rows)


def searched_columns(options: MethodsOptions) -> dict[str, tuple[str, int]]:
    """{column of `search`: (process, seed)}."""
    pairs = product(options.processes, options.search_seeds)
    return {f"{process}_{seed}": (process, seed) for process, seed in pairs}


def choose(means: Mapping[str, float]) -> str:
    """The rule: the lowest mean; of those within 1% of it, the first."""
    best = min(means.values())
    return next(name for name, mean in means.items() if mean <= best * (1 + TIE))


def disagreements(options: MethodsOptions, searched: pd.DataFrame) -> list[str]:
    """A sentence for each method where the config and the rule name different candidates."""
    sentences = []
    for method, rows in searched.groupby("method", sort=False) if len(searched) else ():
        taken = rows.loc[rows["rule"], "candidate"].iloc[0]
        named = getattr(options.chosen, method, None)
        if named is None:
            sentences.append(f"`methods.chosen.{method}` is not set; the rule gives `{taken}`.")
        elif named != taken:
            which = f"`methods.chosen.{method}` is `{named}`, the rule gives `{taken}`"
            end = f"What follows is for `{named}`."
            sentences.append(f"The config and the rule disagree: {which}. {end}")
    return sentences


def labels(options: MethodsOptions, metrics: pd.DataFrame) -> dict[str, str]:
    """Names of the compared alignments: REPA and VRPO for the chosen ones, and the papers' names.

    An alignment whose name would be ambiguous keeps the config's.
    """
    kinds = dict(zip(metrics["alignment"], metrics["kind"], strict=True))
    chosen = {getattr(options.chosen, method): ALIGNMENT_NAMES[method] for method in METHODS}
    others = [name for name in options.compared if name not in chosen]
    papers = {name: ALIGNMENT_NAMES.get(kinds.get(name), name) for name in others}
    taken = [*chosen.values(), *papers.values()]
    unique = {name: paper if taken.count(paper) == 1 else name for name, paper in papers.items()}
    return {name: {**unique, **chosen}[name] for name in options.compared}


def scores_of(options: MethodsOptions) -> list[str]:
    """The scores of the verdict, the held-out one first."""
    return list(filter(None, (options.held_out, options.validation)))


def comparison(options: MethodsOptions, metrics: pd.DataFrame) -> pd.DataFrame:
    """A row for each process, score and compared alignment, against REPA (`COMPARED`).

    `gain` is REPA's score minus this one's, `speedup` that in steps, `reached` the seeds in which
    REPA's last score is reached. With one milestone the speed-up is NaN.
    """
    rows, names = [], labels(options, metrics)
    for process, score in product(options.processes, scores_of(options)):
        base = _scores(options, metrics, run_name(process, options.chosen.repa), score)
        for run, name in options.compared_runs(process).items():
            ours = _scores(options, metrics, run, score)
            row = {"process": process, "alignment": name, "label": names[name]}
            row |= _at_the_end(metrics, run, score, ours)
            if name != options.chosen.repa:
                faster = paired_speedup(ours, base)
                row |= paired_gain(ours, base).columns("gain") | faster.columns("speedup")
                row |= {"reached": faster.reached, "at_least": faster.at_least}
            rows.append(row)
    return pd.DataFrame(rows, columns=COMPARED)


def ablations(options: MethodsOptions, metrics: pd.DataFrame) -> pd.DataFrame:
    """A row for each process, score and ablation, against the chosen VRPO (`ABLATED`).

    `change` is this score minus VRPO's: positive is worse.
    """
    rows = []
    for process, score in product(options.processes, scores_of(options)):
        base = _scores(options, metrics, run_name(process, options.chosen.vrpo), score)
        for run, name in options.ablation_runs(process).items():
            ours = _scores(options, metrics, run, score)
            row = {"process": process, "alignment": name}
            row |= _at_the_end(metrics, run, score, ours)
            rows.append(row | paired_gain(base, ours).columns("change"))
    return pd.DataFrame(rows, columns=ABLATED)


def wall_time(options: MethodsOptions, compared: pd.DataFrame, rates: pd.Series) -> pd.DataFrame:
    """Cost of a step relative to REPA's, and the speed-up in time: that in steps over this cost.

    Columns: process, model, alignment, label, images_per_second, cost (REPA's rate over this
    one's), speedup, speedup_low, speedup_high.
    """
    rows = compared[compared["score"] == options.held_out].reset_index(drop=True)
    rate = rows["run"].map(rates)
    base = rows["process"].map(lambda process: rates[run_name(process, options.chosen.repa)])
    data = rows[["process", "model", "alignment", "label"]].copy()
    data["images_per_second"], data["cost"] = rate, base / rate
    for name in ("speedup", "speedup_low", "speedup_high"):
        data[name] = rows[name] * rate / base
    return data


def _at_the_end(metrics: pd.DataFrame, run: str, score: str, table: pd.DataFrame) -> dict[str, Any]:
    last = table.iloc[:, -1]
    return {
        "model": metrics.loc[metrics["run"] == run, "model"].iloc[0],
        "run": run,
        "score": score,
        "step": int(last.name),
        "seeds": len(last),
        "mean": last.mean(),
        "std": last.std(ddof=1),
    }


def _searched(
    options: MethodsOptions,
    metrics: pd.DataFrame,
    name: str,
) -> tuple[int, dict[str, float]]:
    """A candidate's last milestone, and its validation scores there by `searched_columns`."""
    runs = {process: search_name(process, name) for process in options.processes}
    score = options.validation
    tables = {process: _scores(options, metrics, run, score) for process, run in runs.items()}
    step = int(tables[options.processes[0]].columns[-1])
    places = searched_columns(options).items()
    return step, {column: float(tables[of].loc[seed, step]) for column, (of, seed) in places}


def _scores(options: MethodsOptions, metrics: pd.DataFrame, run: str, score: str) -> pd.DataFrame:
    """A run's scores by seed, with all seeds that it should have.

    Raises:
        UserError: a seed, a milestone or the score is missing.
    """
    rows = main_sampler(metrics)
    rows = rows[rows["run"] == run]
    again = "in the collected results; run the benchmark to its end (`snakemake methods`)"
    if rows.empty or score not in rows or rows[score].isna().any():
        raise UserError(f"methods: run `{run}` has no score `{score}` {again}")
    seeds = options.search_seeds if run.startswith(SEARCH) else options.verdict_seeds
    table = by_seed(rows, score).reindex(seeds)
    if len(partial := table.index[table.isna().any(axis=1)]):
        raise UserError(f"methods: run `{run}` lacks scores `{score}` of seed {partial[0]} {again}")
    return table
