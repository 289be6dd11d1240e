"""The paired gain and speed-up against scipy and against answers known in closed form."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vrpo.report.claims import CLAIMS
from vrpo.report.compare import (
    Paired,
    Ratio,
    common,
    interval,
    interval_note,
    paired_gain,
    paired_speedup,
    steps_saved,
    steps_to_reach,
)

STEPS = (500, 1000, 1500)


def scores(rows: dict[int, tuple[float, ...]], steps: tuple[int, ...] = STEPS) -> pd.DataFrame:
    return pd.DataFrame(rows, index=steps).T


def random_pair(seeds: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    generator = np.random.default_rng(seeds)
    values = np.sort(generator.uniform(1, 20, size=(2, seeds, 3)))[..., ::-1]
    run, base = (pd.DataFrame(part, columns=STEPS) for part in values)
    return run, base


# ---- the interval --------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_gain_is_scipys_paired_t_interval(seeds: int) -> None:
    run, base = random_pair(seeds)
    test = stats.ttest_rel(base[1500], run[1500])
    expected = test.confidence_interval()
    gain = paired_gain(run, base)
    assert gain.mean == pytest.approx((base[1500] - run[1500]).mean(), rel=1e-12)
    assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert (gain.low > 0 or gain.high < 0) == (test.pvalue < 0.05) and gain.seeds == seeds


@pytest.mark.parametrize("seeds", [2, 5])
def test_speedup_is_the_t_interval_of_logarithms(seeds: int) -> None:
    run, base = random_pair(seeds)
    ratios = [steps_saved(STEPS, tuple(run.loc[seed]), tuple(base.loc[seed])) for seed in run.index]
    logs = np.log([ratio.value for ratio in ratios])
    expected = np.exp(stats.ttest_rel(logs, np.zeros(seeds)).confidence_interval())
    faster = paired_speedup(run, base)
    assert faster.mean == pytest.approx(stats.gmean([ratio.value for ratio in ratios]), rel=1e-12)
    assert (faster.low, faster.high) == pytest.approx(tuple(expected), rel=1e-9)
    assert faster.reached == sum(ratio.reached for ratio in ratios)


def test_interval_in_closed_form() -> None:
    found = interval([1.0, 2.0, 3.0])  # standard deviation 1
    half = 4.302652729749464 / np.sqrt(3)  # with the t quantile at 2 degrees of freedom
    assert found.mean == 2.0 and found.seeds == 3
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert interval([0.5] * 5) == Paired(0.5, 0.5, 0.5, 5)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Of five normal values."""
    drawn = np.random.default_rng(0).normal(size=(2000, 5))
    found = [interval(row) for row in drawn]
    assert np.mean([one.low <= 0 <= one.high for one in found]) == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_no_interval_and_says_so() -> None:
    run, base = scores({0: (26, 12, 8)}), scores({0: (30, 15, 10)})
    gain, faster = paired_gain(run, base), paired_speedup(run, base)
    assert gain.mean == 2.0 and faster.mean > 1
    assert np.isnan([gain.low, gain.high, faster.low, faster.high]).all()
    assert interval_note(1) == "One seed gives no interval."
    assert "Student's t" in interval_note(2) and interval_note(0) == ""


# ---- pairs ---------------------------------------------------------------------------------------


def test_a_shift_that_seeds_share_falls_out() -> None:
    base = scores({seed: (30 + seed, 15 + seed, 10 + seed) for seed in range(5)})
    assert paired_gain(base - 2, base) == Paired(2.0, 2.0, 2.0, 5)
    assert paired_gain(base, base - 2).mean == -2.0


def test_seeds_and_milestones_that_one_lacks_are_left_out() -> None:
    run = scores({1: (9.0, 8.0, 7.0), 2: (9.0, 8.0, np.nan), 3: (9.0, 8.0, 7.0)})
    base = scores({2: (9.0, 9.0, 9.0), 3: (9.0, 9.0, 9.0), 4: (9.0, 9.0, 9.0)})
    ours, theirs = common(run, base)
    assert list(ours.index) == list(theirs.index) == [2, 3]
    assert list(ours.columns) == list(theirs.columns) == [500, 1000]
    assert paired_gain(run, base) == Paired(1.0, 1.0, 1.0, 2)
    assert common(run, base.loc[[4]])[0].empty


def test_one_milestone_tells_no_speed() -> None:
    faster = paired_speedup(scores({0: (8,), 1: (8,)}, (500,)), scores({0: (9,), 1: (9,)}, (500,)))
    assert np.isnan(faster.mean) and faster.seeds == 2
    assert faster.reached is None and not faster.at_least


# ---- steps ---------------------------------------------------------------------------------------


def test_steps_to_reach_interpolates() -> None:
    assert steps_to_reach(STEPS, (26, 16, 4), 8.0) == (1250.0, False)  # half way in the logarithm
    assert steps_to_reach(STEPS, (26, 12, 8), 8.0) == (1500.0, False)
    assert steps_to_reach(STEPS, (26, 12, 8), 30.0) == (500.0, True)
    assert steps_to_reach(STEPS, (26, 12, 8), 7.0) == (None, False)
    first_crossing = 500 + 500 * np.log(2.6) / np.log(26 / 8)
    assert steps_to_reach(STEPS, (26, 8, 12), 10.0).step == pytest.approx(first_crossing)
    assert steps_to_reach((500, 1000), (0.5, 0.0), 0.0).step == pytest.approx(1000)


def test_steps_saved_both_ways() -> None:
    assert steps_saved(STEPS, (26, 16, 4), (30, 15, 8)) == Ratio(1500 / 1250, False, True)
    assert steps_saved(STEPS, (30, 15, 8), (26, 16, 4)) == Ratio(1250 / 1500, False, False)
    assert steps_saved(STEPS, (5, 4, 3), (30, 15, 10)) == Ratio(3.0, True, True)
    assert steps_saved(STEPS, (26, 12, 8), (26, 12, 8)) == Ratio(1.0, False, True)


# ---- the paper's claims --------------------------------------------------------------------------


def test_claims_are_those_of_the_abstract() -> None:
    assert {claim.quantity: claim.value for claim in CLAIMS} == {"gain": 1.8, "speedup": 2.3}
