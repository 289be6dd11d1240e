"""Numbers of the method benchmark: the search and its rule, the comparison, the ablations.

The rule and the budget are in docs/benchmark.md, the paired comparisons in `compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vrpo.config.benchmark import SEARCH, BenchmarkOptions, run_name, search_name
from vrpo.config.report import ReportOptions
from vrpo.errors import UserError
from vrpo.report.compare import by_seed, paired_gain, paired_speedup
from vrpo.report.results import (
    main_sampler,
    own_label,
    read_csv,
    read_metrics,
    read_speed,
    shown_names,
)

TIE = 0.01  # candidates within this part of the best score are equally good
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
    """The benchmark's numbers, from a folder of collected results or from a snapshot of them.

    Raises:
        UserError: a run that a number needs lacks a seed, a milestone or a score.
    """

    options: BenchmarkOptions
    report: ReportOptions
    folder: Path

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """`metrics.csv`."""
        return read_metrics(self.folder)

    @cached_property
    def scores(self) -> list[str]:
        """The scores of the verdict, the held-out one first."""
        return list(filter(None, (self.options.held_out, self.options.validation)))

    @cached_property
    def names(self) -> dict[str, str]:
        """{alignment: its name in papers, or the generated name of a reduced VRPO}."""
        named = (
            self.metrics.assign(name=shown_names(self.metrics)).groupby("alignment")["name"].first()
        )
        return named.to_dict()

    @cached_property
    def labels(self) -> dict[str, str]:
        """Names of the compared alignments; the config's for ambiguous ones that are not chosen."""
        chosen = self.options.chosen.values()
        found = {name: self.names.get(name, name) for name in self.options.compared}
        taken = list(found.values())
        return {
            name: own_label(label, name) if taken.count(label) > 1 and name not in chosen else label
            for name, label in found.items()
        }

    @cached_property
    def searched(self) -> pd.DataFrame:
        """The candidates in their order, with the validation score at the last milestone.

        Columns: method (its kind), candidate, step, mean (geometric, over processes and seeds),
        those of `searched_columns`, rule (the rule takes it), chosen (the config names it).
        """
        options, tables = self.options, []
        for method, names in (options.candidates or {}).items():
            table = pd.DataFrame([{"method": method, **self._searched(name)} for name in names])
            scores = table[list(searched_columns(options))]
            table.insert(3, "mean", np.exp(np.log(scores).mean(axis=1)))
            means = dict(zip(names, table["mean"], strict=True))
            table["rule"] = table["candidate"] == choose(means)
            table["chosen"] = table["candidate"] == (options.chosen or {}).get(method)
            tables.append(table)
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    @cached_property
    def disagreements(self) -> list[str]:
        """A sentence for each method where the config and the rule name different candidates."""
        sentences = []
        for method in self.options.candidates or {}:
            rows = self.searched[self.searched["method"] == method]
            taken = rows.loc[rows["rule"], "candidate"].iloc[0]
            named = (self.options.chosen or {}).get(method)
            option, rule = f"`benchmark.chosen.{method}`", f"the rule gives `{taken}`"
            if named is None:
                sentences.append(f"{option} is not set; {rule}.")
            elif named != taken:
                which = f"The config and the rule disagree: {option} is `{named}`, {rule}."
                sentences.append(f"{which} What follows is for `{named}`.")
        return sentences

    @cached_property
    def compared(self) -> pd.DataFrame:
        """A row for each process, score and compared alignment, against REPA (`COMPARED`).

        `gain` is REPA's score minus this one's, `speedup` that in steps, `reached` the seeds in
        which REPA's last score is reached. With one milestone the speed-up is NaN.
        """
        rows, repa = [], self.options.repa
        for row, ours, base in self._against(repa, self.options.compared_runs):
            row["label"] = self.labels[row["alignment"]]
            if row["alignment"] != repa:
                faster = paired_speedup(ours, base)
                row |= paired_gain(ours, base).columns("gain") | faster.columns("speedup")
                row |= {"reached": faster.reached, "at_least": faster.at_least}
            rows.append(row)
        return pd.DataFrame(rows, columns=COMPARED)

    @cached_property
    def ablated(self) -> pd.DataFrame:
        """A row for each process, score and ablation, against the chosen VRPO (`ABLATED`).

        `change` is this score minus VRPO's: positive is worse.
        """
        pairs = self._against(self.options.vrpo, self.options.ablation_runs)
        rows = [row | paired_gain(base, ours).columns("change") for row, ours, base in pairs]
        return pd.DataFrame(rows, columns=ABLATED)

    @cached_property
    def rates(self) -> pd.Series:
        """Images per second of each run, median over seeds; of a snapshot, from wall_time.csv."""
        if not (self.folder / "wall_time.csv").exists():
            return read_speed(self.folder).groupby("run")["images_per_second"].median()
        needed = ["process", "alignment", "images_per_second"]
        rows = read_csv(self.folder / "wall_time.csv", needed)[needed].itertuples(index=False)
        return pd.Series({run_name(process, name): rate for process, name, rate in rows})

    @cached_property
    def wall_time(self) -> pd.DataFrame:
        """Cost of a step relative to REPA's, and the speed-up in time: in steps, over this cost.

        Columns: process, model, alignment, label, images_per_second, cost (REPA's rate over this
        one's), speedup, speedup_low, speedup_high.
        """
        rows = self.compared[self.compared["score"] == self.options.held_out]
        repa = {process: run_name(process, self.options.repa) for process in rows["process"]}
        rate, base = rows["run"].map(self.rates), rows["process"].map(repa).map(self.rates)
        data = rows[["process", "model", "alignment", "label"]].copy()
        data["images_per_second"], data["cost"] = rate, base / rate
        for name in ("speedup", "speedup_low", "speedup_high"):
            data[name] = rows[name] * rate / base
        return data.reset_index(drop=True)

    def _against(
        self,
        name: str,
        runs_of: Callable[[str], dict[str, str]],
    ) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
        """For each process, score and run: its row, its scores and those of alignment `name`."""
        models = self.metrics.groupby("run")["model"].first()
        for process, score in product(self.options.processes, self.scores):
            base = self._scores(run_name(process, name), score)
            for run, alignment in runs_of(process).items():
                ours = self._scores(run, score)
                last = ours.iloc[:, -1]
                row = {"process": process, "model": models[run], "alignment": alignment}
                row |= {"run": run, "score": score, "step": int(last.name), "seeds": len(last)}
                yield row | {"mean": last.mean(), "std": last.std(ddof=1)}, ours, base

    def _searched(self, name: str) -> dict[str, Any]:
        """A candidate's last milestone and validation scores."""
        row: dict[str, Any] = {"candidate": name}
        for column, (process, seed) in searched_columns(self.options).items():
            last = self._scores(search_name(process, name), self.options.validation).iloc[:, -1]
            row |= {"step": row.get("step", int(last.name)), column: last[seed]}
        return row

    def _scores(self, run: str, score: str) -> pd.DataFrame:
        """A run's scores by seed, with all seeds that it should have."""
        rows = main_sampler(self.metrics)
        rows = rows[rows["run"] == run]
        again = "in the collected results; run the benchmark to its end (`snakemake benchmark`)"
        if rows.empty or score not in rows or rows[score].isna().any():
            raise UserError(f"benchmark: run `{run}` has no score `{score}` {again}")
        searched = run.startswith(SEARCH)
        seeds = self.options.search_seeds if searched else self.options.verdict_seeds
        table = by_seed(rows, score).reindex(seeds)
        if len(partial := table.index[table.isna().any(axis=1)]):
            which = f"run `{run}` lacks scores `{score}` of seed {partial[0]}"
            raise UserError(f"benchmark: {which} {again}")
        return table


def searched_columns(options: BenchmarkOptions) -> dict[str, tuple[str, int]]:
    """{column of `Benchmark.searched`: (process, seed)}."""
    pairs = product(options.processes, options.search_seeds)
    return {f"{process}_{seed}": (process, seed) for process, seed in pairs}


def choose(means: Mapping[str, float]) -> str:
    """The rule: the lowest mean; of those within 1% of it, the first."""
    best = min(means.values())
    return next(name for name, mean in means.items() if mean <= best * (1 + TIE))
