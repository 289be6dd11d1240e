"""Paired comparisons of two runs: the gain in a score and the training steps saved.

The runs of a pair share seeds, data order, noise and sampling seeds, so differences are taken seed
by seed. All intervals are Student's t intervals of the paired differences (of logarithms, for a
ratio), at 95%. One seed has no interval.

Scores of a run are a table: a row for each seed, a column for each milestone (`by_seed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
LEAST = 1e-12  # a Frechet distance of equal distributions is 0 up to rounding, of either sign


@dataclass(frozen=True)
class Paired:
    """A mean over seeds with its interval, which is NaN for one seed."""

    mean: float
    low: float
    high: float
    seeds: int

    def columns(self, name: str) -> dict[str, float]:
        """The columns `name`, `name_low` and `name_high` of a table."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class Speedup(Paired):
    """A factor; NaN with one milestone, since it is read off between milestones."""

    at_least: bool  # a lower bound, in some seed
    reached: int | None  # seeds in which the run reaches its base's last score


class Reached(NamedTuple):
    """Step at which a run reaches a score; None if it never does."""

    step: float | None
    at_most: bool  # reached at the first milestone already


class Ratio(NamedTuple):
    """Steps of the base over those of the run, for the same score."""

    value: float
    at_least: bool
    reached: bool  # whether the run reaches the base's last score


def by_seed(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """Scores of one run from its rows of `metrics.csv`."""
    return rows.pivot_table(index="seed", columns="step", values=score)


def common(run: pd.DataFrame, base: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables, cut to the seeds of both and to the milestones that no seed lacks."""
    seeds = run.index.intersection(base.index)
    run, base = run.loc[seeds].dropna(axis=1), base.loc[seeds].dropna(axis=1)
    steps = run.columns.intersection(base.columns)
    return run[steps], base[steps]


def paired_gain(run: pd.DataFrame, base: pd.DataFrame) -> Paired:
    """Decrease of the score from `base` to `run` at the last common milestone."""
    run, base = common(run, base)
    return interval((base.iloc[:, -1] - run.iloc[:, -1]).to_numpy())


def paired_speedup(run: pd.DataFrame, base: pd.DataFrame) -> Speedup:
    """Geometric mean of `steps_saved` over the common milestones."""
    run, base = common(run, base)
    steps = run.columns.to_list()
    if len(steps) < 2:
        return Speedup(nan, nan, nan, len(run), at_least=False, reached=None)
    pairs = zip(run.to_numpy().tolist(), base.to_numpy().tolist(), strict=True)
    values, bounds, reached = zip(*(steps_saved(steps, *pair) for pair in pairs), strict=True)
    logs = interval(np.log(values))
    mean, low, high = map(float, np.exp([logs.mean, logs.low, logs.high]))
    return Speedup(mean, low, high, logs.seeds, at_least=any(bounds), reached=sum(reached))


def interval(differences: np.ndarray | Sequence[float]) -> Paired:
    """Mean and Student's t interval of paired differences, one for each seed."""
    values = np.asarray(differences, dtype=float)
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return Paired(mean, nan, nan, count)
    quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)
    half = float(quantile * values.std(ddof=1) / np.sqrt(count))
    return Paired(mean, mean - half, mean + half, count)


def interval_note(seeds: int) -> str:
    """The note below a table of comparisons over `seeds` seeds, at most."""
    if seeds < 2:
        return "One seed gives no interval." if seeds else ""
    return "In brackets 95% intervals over seeds: Student's t of the paired differences."


def steps_saved(steps: Sequence[float], scores: Sequence[float], base: Sequence[float]) -> Ratio:
    """Factor by which a run needs fewer steps than its base for the same score.

    It is the base's last step over the step at which the run reaches the base's last score. A run
    that never does is slower: then it is the step at which the base reached the run's last score
    over the run's last step, at most 1.
    """
    run = steps_to_reach(steps, scores, base[-1])
    if run.step is not None:
        return Ratio(steps[-1] / run.step, run.at_most, reached=True)
    slower = steps_to_reach(steps, base, scores[-1]).step
    return Ratio((slower or steps[-1]) / steps[-1], at_least=False, reached=False)


def steps_to_reach(steps: Sequence[float], scores: Sequence[float], target: float) -> Reached:
    """First step at which a Frechet distance falls to `target`.

    Between milestones the logarithm of the distance is taken to be linear in the steps.
    """
    if scores[0] <= target:
        return Reached(float(steps[0]), at_most=True)
    logs, wanted = np.log(np.maximum(scores, LEAST)), np.log(max(target, LEAST))
    for i in range(1, len(steps)):
        if scores[i] <= target:
            part = (logs[i - 1] - wanted) / (logs[i - 1] - logs[i])
            return Reached(float(steps[i - 1] + (steps[i] - steps[i - 1]) * part), at_most=False)
    return Reached(None, at_most=False)
