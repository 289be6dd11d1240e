"""Training steps saved: where one run reaches another's score, read off between milestones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST = 1e-12  # a Frechet distance of equal distributions is 0 up to rounding, of either sign


def steps_to_reach(steps: Sequence[float], scores: Sequence[float], target: float) -> tuple[float | None, bool]:
    """Where a Frechet distance first falls to `target`: between milestones its logarithm is taken to be linear in the steps.

    Returns:
        The step, or None when it never does; and whether it is only an upper bound, because the first milestone is already there.
    """
    if scores[0] <= target:
        return float(steps[0]), True
    logs, wanted = np.log(np.maximum(scores, LEAST)), np.log(max(target, LEAST))
    for i in range(1, len(steps)):
        if scores[i] <= target:
            return float(steps[i - 1] + (steps[i] - steps[i - 1]) * (logs[i - 1] - wanted) / (logs[i - 1] - logs[i])), False
    return None, False


def speedup(steps: Sequence[float], scores: Sequence[float], base_scores: Sequence[float]) -> tuple[float, bool]:
    """How many times fewer steps a run needs than its base for the same score, and whether it may be more than that.

    It is the base's last step over the step at which the run reaches the base's last score. A run that never does is slower:
    then it is the step at which the base reached the run's last score over the run's last step, at most 1.
    """
    reached, bound = steps_to_reach(steps, scores, base_scores[-1])
    if reached is not None:
        return steps[-1] / reached, bound
    slower, _ = steps_to_reach(steps, base_scores, scores[-1])
    return (slower or steps[-1]) / steps[-1], False
