"""The search rule and the comparisons of made-up results whose answers are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vrpo.benchmark import numbers
from vrpo.errors import UserError

from tests.fixtures.benchmark import (
    KINDS,
    METRICS,
    OPTIONS,
    REPORT,
    benchmark_of,
    without,
    write_collected,
)


def test_rule_takes_the_lowest_and_ties_go_to_the_first() -> None:
    assert numbers.choose({"a": 2.0, "b": 1.0, "c": 3.0}) == "b"
    assert numbers.choose({"a": 1.0099, "b": 1.0}) == "a"
    assert numbers.choose({"a": 1.011, "b": 1.0}) == "b"
    assert numbers.choose({"a": 1.5, "b": 1.005, "c": 1.0}) == "b"


def test_search_table_and_agreement_with_the_config() -> None:
    searched = benchmark_of(OPTIONS, METRICS).searched
    assert list(searched["candidate"]) == ["repa-a", "repa-b", "vrpo-a", "vrpo-b"]
    np.testing.assert_allclose(searched["mean"], [3.02, 3.0, 2.5, 2.0])
    columns = [
        "sit_10",
        "sit_11",
        "dit_10",
        "dit_11",
    ]  # the mean is geometric: processes whose scores differ in size weigh the same
    np.testing.assert_allclose(
        searched[columns].iloc[2], 2.5 * np.array([1 / 4.4, 1.1 / 4, 4 / 1.1, 4.4])
    )
    assert list(searched["rule"]) == list(searched["chosen"]) == [True, False, False, True]
    assert benchmark_of(OPTIONS, METRICS).disagreements == []


def test_comparison_is_paired_and_in_both_spaces() -> None:
    table = benchmark_of(OPTIONS, METRICS).compared.set_index(["process", "alignment", "score"])
    row = table.loc[("dit", "vrpo-b", "fid")]
    assert (row["gain"], row["gain_low"], row["gain_high"]) == (2.0, 2.0, 2.0)
    assert (
        row["speedup"] == row["speedup_high"] == pytest.approx(2.0)
    )  # 4.0 is reached at 1,000 of 2,000 steps
    assert (row["reached"], row["seeds"], row["step"], row["label"]) == (5, 5, 2000, "VRPO")
    assert table.loc[("sit", "vrpo-b", "fd_validation"), "gain"] == 1.0
    assert np.isnan(table.loc[("sit", "repa-a", "fid"), "gain"])
    assert table.loc[("sit", "none", "fid"), "gain"] == -4.0
    assert table.loc[("sit", "none", "fid"), "speedup"] == pytest.approx(0.5)
    haste = table.loc[("sit", "haste", "fid")]
    assert haste["gain_low"] < 0 < haste["gain_high"]
    assert haste["gain"] == pytest.approx(-0.2)
    assert haste["reached"] == 2  # seeds 1 and 3, whose wobble is -0.4 and -0.2
    assert set(table["label"]) == {"none", "REPA", "HASTE", "VRPO"}


def test_ablations_are_compared_with_the_chosen_vrpo() -> None:
    table = benchmark_of(OPTIONS, METRICS).ablated.set_index(["alignment", "score"])
    assert table.loc[("vrpo-worse", "fid"), ["change", "change_low", "change_high"]].tolist() == [
        3.0,
        3.0,
        3.0,
    ]
    alike = table.loc[("vrpo-alike", "fid")]
    assert (
        alike["change"] == pytest.approx(0.0, abs=1e-12)
        and alike["change_low"] < 0 < alike["change_high"]
    )
    assert set(table["process"]) == {"sit"}


def test_a_second_form_of_repa_is_not_called_repa() -> None:
    options = without(compared=[*OPTIONS.compared, "repa-b", "vrpo-a"])
    kinds = pd.DataFrame({"alignment": list(KINDS), "kind": list(KINDS.values())})
    named = benchmark_of(options, kinds).labels
    assert named == {
        "none": "none",
        "repa-a": "REPA",
        "haste": "HASTE",
        "vrpo-b": "VRPO",
        "repa-b": "repa-b",
        "vrpo-a": "vrpo-a",
    }


def test_wall_time_is_steps_over_cost(tmp_path: Path) -> None:
    benchmark = numbers.Benchmark(OPTIONS, REPORT, write_collected(tmp_path, METRICS))
    table = benchmark.wall_time.set_index(["process", "label"])
    assert table.loc[("sit", "VRPO"), "cost"] == pytest.approx(1.25)
    assert table.loc[("sit", "VRPO"), "speedup"] == pytest.approx(2.0 / 1.25)


def test_missing_runs_are_named() -> None:
    with pytest.raises(UserError, match=r"run `dit-haste` has no score `fid`"):
        assert benchmark_of(OPTIONS, METRICS[METRICS["run"] != "dit-haste"]).compared is not None
    unscored = METRICS.assign(
        fid=METRICS["fid"].where((METRICS["run"] != "sit-none") | (METRICS["step"] != 2000))
    )
    with pytest.raises(UserError, match=r"run `sit-none` has no score `fid`"):
        assert benchmark_of(OPTIONS, unscored).compared is not None


@pytest.mark.parametrize(
    ("run", "seed", "step"),
    [("dit-haste", 3, None), ("sit-repa-a", 1, None), ("sit-vrpo-b", 2, 2000)],
)
def test_a_missing_seed_or_milestone_is_named_and_not_counted(
    run: str, seed: int, step: int | None
) -> None:
    gone = (
        (METRICS["run"] == run)
        & (METRICS["seed"] == seed)
        & (METRICS["step"] == (step or METRICS["step"]))
    )
    with pytest.raises(UserError, match=rf"run `{run}` lacks scores `fid` of seed {seed}"):
        assert benchmark_of(OPTIONS, METRICS[~gone]).compared is not None


def test_a_missing_seed_of_the_search_is_named() -> None:
    searched = METRICS[METRICS["run"].str.startswith("search-")]
    run, seed = searched.iloc[-1][["run", "seed"]]
    with pytest.raises(UserError, match=rf"run `{run}` lacks scores `\w+` of seed {seed}"):
        assert (
            benchmark_of(
                OPTIONS, METRICS[(METRICS["run"] != run) | (METRICS["seed"] != seed)]
            ).searched
            is not None
        )


def test_metrics_are_read_as_collected(tmp_path: Path) -> None:
    labels = numbers.Benchmark(OPTIONS, REPORT, write_collected(tmp_path, METRICS)).labels
    assert labels == {"none": "none", "repa-a": "REPA", "haste": "HASTE", "vrpo-b": "VRPO"}
