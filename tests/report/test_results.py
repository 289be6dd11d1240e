"""Collected results as they are read."""

from pathlib import Path

import pandas as pd

from vrpo.report.results import last_milestone, main_sampler, read_metrics

from tests.fixtures.report import (
    collected,
    metrics_frame,
)


def test_main_sampler_and_last_milestone(one_seed: Path) -> None:
    metrics = read_metrics(one_seed)
    assert set(main_sampler(metrics)["sampler"]) == {"ode", "ddpm"}
    assert set(last_milestone(metrics)["step"]) == {1500}
    assert "guided" in " ".join(last_milestone(metrics)["sampler"])


def test_rivals_of_one_kind_keep_their_own_names(tmp_path: Path) -> None:
    metrics = metrics_frame()
    other = metrics[metrics["kind"] == "vrpo"].assign(
        run=lambda frame: frame["run"] + "-2", alignment="vrpo-eta1"
    )
    labels = read_metrics(collected(tmp_path / "collected", pd.concat([metrics, other])))["label"]
    assert set(labels) == {"none", "REPA", "vrpo", "vrpo-eta1"}
