"""Paired gains, verdicts and the headline from made-up results whose answers are known."""

from pathlib import Path

import numpy as np
import pytest

from vrpo.report.claims import gains, headline, judge
from vrpo.report.results import read_metrics

from tests.fixtures.report import (
    collected,
    metrics_frame,
)


def test_gains_are_paired_by_seed(three_seeds: Path) -> None:
    table = gains(read_metrics(three_seeds))
    row = table[(table["run"] == "sit-vrpo") & (table["base"] == "sit-repa")].iloc[0]
    assert row["gain"] == pytest.approx(1.9)  # 2.0, 1.9, 1.8
    assert row["gain_high"] - row["gain"] == pytest.approx(
        4.302652729749464 * 0.1 / np.sqrt(3)
    )  # seeds' common shift is gone
    assert row["seeds"] == 3
    assert len(table) == 6


def test_seeds_without_a_partner_are_left_out() -> None:
    metrics = metrics_frame((0, 1, 2))
    metrics = metrics[~((metrics["kind"] == "vrpo") & (metrics["seed"] == 2))]
    table = gains(metrics.assign(label=metrics["kind"]))
    assert set(table.loc[table["kind"] == "vrpo", "seeds"]) == {2}


def test_verdicts(one_seed: Path, three_seeds: Path, tmp_path: Path) -> None:
    assert set(judge(read_metrics(one_seed), comparable=True)["verdict"]) == {
        "one seed proves nothing"
    }
    judged = judge(read_metrics(three_seeds), comparable=True)
    assert set(judged.loc[judged["claim"].str.startswith("FID"), "verdict"]) == {
        "reproduced"
    }  # [1.65, 2.15] reaches 1.8
    assert set(judged.loc[judged["claim"].str.startswith("training"), "verdict"]) == {
        "not reproduced"
    }
    assert set(judged["finding"]) == {"VRPO better"}
    assert (
        judge(read_metrics(three_seeds), comparable=False)["verdict"]
        .str.startswith("not run")
        .all()
    )
    without = read_metrics(
        collected(tmp_path / "collected", metrics_frame((0, 1), ("none", "repa")))
    )
    assert set(judge(without, comparable=True)["verdict"]) == {"not run"}


def test_headline_says_what_was_measured(one_seed: Path) -> None:
    text = " ".join(headline(read_metrics(one_seed), comparable=False))
    assert "SiT-B/2, FID after 1,500 steps: none 12.00, REPA 10.00, VRPO 8.00 (one seed)." in text
    assert "one seed proves nothing" in text
