"""Intervals over a handful of training seeds by the bootstrap."""

from __future__ import annotations

import numpy as np
from scipy import stats

from vrpo.seeds import numpy_generator

RESAMPLES = 10_000


def bootstrap_interval(values: np.ndarray | list[float], confidence: float = 0.95, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Mean of paired differences, one for each seed, and its expanded percentile interval over resampled seeds; NaN where there are fewer than two.

    The plain percentile interval of n values is too short by sqrt((n - 1) / n) and takes the normal law where Student's holds: for five normal values it covers
    84% and not 95%. The expanded one (Hesterberg, arXiv:1411.5279) moves its two quantiles out to Phi(-sqrt(n / (n - 1)) t_{n-1}), which covers 92%.
    The same seeds are drawn for every quantity, so that intervals of one benchmark fit each other.
    """
    values = np.asarray(values, dtype=float)
    count = len(values)
    mean = float(values.mean()) if count else float("nan")
    if count < 2:
        return mean, float("nan"), float("nan")
    drawn = numpy_generator("bootstrap-seeds", count).integers(count, size=(resamples, count))
    means = values[drawn].mean(axis=1)
    tail = stats.norm.cdf(-np.sqrt(count / (count - 1)) * stats.t.ppf(0.5 + confidence / 2, count - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    return mean, float(low), float(high)
