"""The report's answer, from made-up results whose answers are known."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from vrpo.report.answer import QUESTION, Answer, answer
from vrpo.report.results import read_metrics

from tests.fixtures.report import metrics_frame


@pytest.fixture
def answered(tmp_path: Path) -> Callable[[pd.DataFrame], Answer]:
    def of(metrics: pd.DataFrame) -> Answer:
        metrics.to_csv(tmp_path / "metrics.csv", index=False)
        return answer(read_metrics(tmp_path))

    return of


def changed(metrics: pd.DataFrame, run: str, by: dict[int, float]) -> pd.DataFrame:
    """`by[seed]` more FID for a run."""
    more = metrics["seed"].map(by).where(metrics["run"] == run, 0.0)
    return metrics.assign(fid=metrics["fid"] + more)


def test_each_verdict(answered: Callable[[pd.DataFrame], Answer]) -> None:
    metrics = metrics_frame((0, 1, 2))
    both = answered(metrics)
    assert both.sentence == (
        "Yes on SiT-B/2 by 1.90 FID [1.65, 2.15] and DiT-XL/2 by 1.90 FID [1.65, 2.15]."
    )
    assert both.question == QUESTION and "Mean of 3 seeds. In brackets 95%" in both.note
    undecided = answered(changed(metrics, "sit-vrpo", {0: 0.9, 1: 1.9, 2: 2.9}))
    assert undecided.sentence == (
        "Yes on DiT-XL/2 by 1.90 FID [1.65, 2.15]; undecided on SiT-B/2 (+0.00 FID [-2.73, +2.73])."
    )
    worse = answered(changed(metrics, "dit-vrpo", dict.fromkeys(range(3), 4.0)))
    assert worse.sentence.endswith("; no on DiT-XL/2, where it is worse by 2.10 FID [1.85, 2.35].")
    assert [bar.verdict for bar in worse.bars] == ["yes", "no"]


def test_one_seed_proves_nothing(answered: Callable[[pd.DataFrame], Answer]) -> None:
    metrics = changed(metrics_frame((0,)), "dit-vrpo", {0: 5.0})
    found = answered(metrics)
    assert found.sentence == (
        "Not known, as one seed proves nothing: "
        "the FID is 2.00 better on SiT-B/2 and 3.00 worse on DiT-XL/2."
    )
    assert {bar.verdict for bar in found.bars} == {"not known"}
    assert found.note == "One seed gives no interval."


def test_bars_are_in_the_figure_and_in_order(answered: Callable[[pd.DataFrame], Answer]) -> None:
    metrics = changed(metrics_frame((0, 1, 2)), "dit-vrpo", dict.fromkeys(range(3), 4.0))
    found = answered(metrics)
    better, worse = found.bars
    assert 0 < worse.low < worse.mean < worse.high < found.zero
    assert found.zero < better.low < better.mean < better.high < 100
    scale = (better.mean - found.zero) / 1.9
    assert worse.mean == pytest.approx(found.zero - 2.1 * scale, abs=0.02)


def test_equal_runs_have_a_place(answered: Callable[[pd.DataFrame], Answer]) -> None:
    metrics = metrics_frame((0,)).assign(fid=3.0)
    assert {bar.mean for bar in answered(metrics).bars} == {50.0}


def test_a_reduced_form_is_named_and_gives_way_to_the_full_one(
    answered: Callable[[pd.DataFrame], Answer],
) -> None:
    metrics = metrics_frame((0, 1, 2))
    full, reduced = "VRPO", "VRPO (fidelity only)"
    names = {"none": "none", "repa": "REPA", "vrpo": reduced}
    alone = answered(metrics.assign(name=metrics["kind"].map(names)))
    assert f"Yes on SiT-B/2 with {reduced} by 1.90" in alone.sentence
    second = metrics[metrics["kind"] == "vrpo"].assign(fid=99.0, alignment="fidelity")
    second["run"] += "-fidelity"
    both = pd.concat([metrics.assign(name=metrics["kind"].map({**names, "vrpo": full})), second])
    found = answered(both.fillna({"name": reduced}))
    assert reduced not in found.sentence and len(found.bars) == 2


def test_many_comparisons_are_counted(answered: Callable[[pd.DataFrame], Answer]) -> None:
    metrics = metrics_frame((0, 1, 2))
    ours = metrics[metrics["kind"] == "vrpo"]
    copies = [
        ours.assign(run=ours["run"] + f"-{i}", alignment=f"vrpo-{i}", fid=ours["fid"] + worse)
        for i, worse in enumerate([0, 0, 0, 0, 4, 4])
    ]
    found = answered(pd.concat([metrics[metrics["kind"] != "vrpo"], *copies]))
    assert found.sentence == "Of 12 comparisons: yes in 8 and no in 4." and len(found.bars) == 12
    found = answered(pd.concat([metrics, *copies]))
    assert found.sentence.startswith("Of 14 comparisons") and not found.bars


def test_without_the_comparison_there_is_no_question(
    answered: Callable[[pd.DataFrame], Answer],
) -> None:
    found = answered(metrics_frame((0,), ("none", "repa")))
    assert found.question is None and not found.bars and "no scores of VRPO" in found.sentence
