"""The page of a made-up benchmark and the files beside it."""

from pathlib import Path

import pandas as pd
import pytest

from vrpo.benchmark.page import write_benchmark
from vrpo.report.catalogue import benchmark_entries

from tests.fixtures.benchmark import (
    METRICS,
    OPTIONS,
    REPORT,
    benchmark_of,
    files,
    metrics_of,
    without,
    write_collected,
)


def test_disagreement_is_said_plainly(tmp_path: Path) -> None:
    other = without(
        chosen={"repa": "repa-b", "vrpo": "vrpo-b"},
        compared=["none", "repa-b", "vrpo-b"],
        diagnosed=None,
    )
    metrics = metrics_of()
    verdict_rows = metrics[metrics["run"].isin(["sit-repa-a", "dit-repa-a"])].replace(
        {"repa-a": "repa-b", "sit-repa-a": "sit-repa-b", "dit-repa-a": "dit-repa-b"}
    )
    write_benchmark(
        other,
        REPORT,
        write_collected(tmp_path / "collected", pd.concat([metrics, verdict_rows])),
        tmp_path / "benchmark",
    )
    text = (tmp_path / "benchmark/README.md").read_text()
    assert (
        "**The config and the rule disagree: `benchmark.chosen.repa` is `repa-b`, the "
        "rule gives `repa-a`." in text
    )


def test_before_anything_is_chosen_only_the_search_is_reported(tmp_path: Path) -> None:
    searching = without(chosen=None)
    assert set(searching.rows([500])) == {
        *searching.search_runs("sit"),
        *searching.search_runs("dit"),
    }
    metrics = METRICS[METRICS["run"].str.startswith("search-")]
    write_benchmark(
        searching, REPORT, write_collected(tmp_path / "collected", metrics), tmp_path / "benchmark"
    )
    assert {path.name for path in (tmp_path / "benchmark").iterdir()} == {
        "README.md",
        "search.csv",
        "search.md",
        "search.tex",
    }
    assert (
        "`benchmark.chosen.vrpo` is not set; the rule gives `vrpo-b`."
        in (tmp_path / "benchmark/README.md").read_text()
    )


def test_without_a_search_none_is_told(tmp_path: Path) -> None:
    options = without(candidates=None)
    write_benchmark(
        options, REPORT, write_collected(tmp_path / "collected", METRICS), tmp_path / "benchmark"
    )
    text = (tmp_path / "benchmark/README.md").read_text()
    assert "Search:" not in text and "Verdict: seeds 0, 1, 2, 3, 4, by fid." in text


def test_one_milestone_tells_no_speed(tmp_path: Path) -> None:
    metrics = METRICS[METRICS["step"] == METRICS["step"].max()]
    compared = benchmark_of(OPTIONS, metrics).compared
    assert compared["speedup"].isna().all() and compared["gain"].notna().sum() == 2 * 2 * 3
    write_benchmark(
        OPTIONS, REPORT, write_collected(tmp_path / "collected", metrics), tmp_path / "benchmark"
    )
    text = (tmp_path / "benchmark/README.md").read_text()
    assert (
        "VRPO beats REPA by 2.00 FID" in text
        and "steps saved" not in text
        and "fewer steps" not in text
        and "nan" not in text
    )


def test_everything_is_written_and_always_the_same(tmp_path: Path) -> None:
    collected = write_collected(tmp_path / "collected", METRICS)
    for name in ("a", "b"):
        write_benchmark(OPTIONS, REPORT, collected, tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    wanted = {file for entry in benchmark_entries(OPTIONS) for file in entry.files}
    assert set(files(tmp_path / "a")) == wanted | {"README.md"}
    text = (tmp_path / "a/compared.md").read_text()
    assert (
        "| SiT-mini/2 | VRPO | `vrpo-b` | **2.00 ± 0.00** | +2.00 [+2.00, +2.00] |" in text
        and "made up" in text
    )
    readme = (tmp_path / "a/README.md").read_text()
    assert (
        "disagree" not in readme and "images/s" not in readme
    )  # what is by the clock is not among what is the same each time
    times = pd.read_csv(tmp_path / "a/scores_time.csv")
    assert times.loc[
        (times["label"] == "VRPO") & (times["score"] == "fid"), "seconds_of_training"
    ].max() == pytest.approx(2000 * 64 / 64)
    diagnosed = {
        process: pd.read_csv(tmp_path / f"a/diagnostics_{process}.csv")
        for process in ("sit", "dit")
    }
    assert list(dict.fromkeys(diagnosed["sit"]["label"])) == ["REPA", "VRPO", "VRPO, worse"]
    assert list(dict.fromkeys(diagnosed["dit"]["label"])) == [
        "REPA",
        "VRPO",
    ]  # the ablation was trained on the other process alone
    assert {run.partition("-")[0] for run in diagnosed["dit"]["run"]} == {"dit"}
    assert all(f"(diagnostics_{process}.png)" in readme for process in diagnosed)
    steps = pd.read_csv(tmp_path / "a/scores.csv")
    assert set(steps["score"]) == {"fid", "fd_validation"} and set(steps["seeds"]) == {5}
