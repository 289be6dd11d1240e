"""Snapshots of a made-up benchmark."""

import json
from pathlib import Path

import pandas as pd
import pytest

from vrpo.benchmark.page import write_benchmark
from vrpo.benchmark.snapshot import redraw_snapshot, write_snapshot
from vrpo.config import parse_experiment
from vrpo.errors import UserError
from vrpo.plan.paths import Paths
from vrpo.runtime.machine import processor

from tests.fixtures.benchmark import (
    METRICS,
    OPTIONS,
    REPORT,
    experiment,
    files,
    write_collected,
)


@pytest.fixture
def mini_benchmark() -> dict[str, object]:
    return experiment()


def test_snapshot_is_the_same_but_for_the_machine(
    tmp_path: Path, mini_benchmark: dict[str, object]
) -> None:
    config = parse_experiment(
        {**mini_benchmark, "results": str(tmp_path / "results"), "benchmark": OPTIONS.model_dump()},
        "made up",
    )
    with pytest.raises(UserError, match="run the benchmark to its end"):
        write_snapshot(config, tmp_path / "early")
    write_collected(Paths.of(config).folder / "collected", METRICS)
    write_benchmark(
        OPTIONS,
        REPORT,
        Paths.of(config).folder / "collected",
        Paths.of(config).folder / "benchmark",
    )
    for name in ("a", "b"):
        write_snapshot(config, tmp_path / name)
    first, second = files(tmp_path / "a"), files(tmp_path / "b")
    assert {name for name in first if first[name] != second[name]} <= {"machine.json"}
    assert {"README.md", "compared.md", "metrics.csv", "scores.png", "provenance.json"} <= set(
        first
    )
    whole, copied = (
        pd.read_csv(folder / "diagnostics_dit.csv")
        for folder in (Paths.of(config).folder / "benchmark", tmp_path / "a")
    )
    drawn = {200, 800, 2000}  # 10%, 40% and the end of what was logged
    assert set(copied["step"]) == drawn
    pd.testing.assert_frame_equal(copied, whole[whole["step"].isin(drawn)].reset_index(drop=True))
    assert json.loads(first["machine.json"])["processor"] == processor()
    provenance = json.loads(first["provenance.json"])
    assert provenance["benchmark"]["verdict_seeds"] == [0, 1, 2, 3, 4] and provenance[
        "versions"
    ] == {"torch": ["2.15"]}
    elsewhere = parse_experiment(
        {**mini_benchmark, "results": str(tmp_path), "benchmark": OPTIONS.model_dump()}, "made up"
    )
    (tmp_path / elsewhere.experiment).symlink_to(Paths.of(config).folder)
    write_snapshot(elsewhere, tmp_path / "c")
    assert files(tmp_path / "c")["provenance.json"] == first["provenance.json"]
    searching = {**mini_benchmark, "benchmark": {**OPTIONS.model_dump(), "chosen": None}}
    with pytest.raises(UserError, match=r"^benchmark.chosen: is not set, .* what the rule gave"):
        write_snapshot(parse_experiment(searching, "made up"), tmp_path / "none")
    with pytest.raises(UserError, match="no method benchmark"):
        write_snapshot(
            parse_experiment({**mini_benchmark, "benchmark": None}, "made up"), tmp_path / "none"
        )


def test_a_snapshot_is_redrawn_from_its_own_files(
    tmp_path: Path, mini_benchmark: dict[str, object]
) -> None:
    words = {"title": REPORT.title, "metric_space": REPORT.metric_space}
    config = parse_experiment(
        {
            **mini_benchmark,
            "results": str(tmp_path / "results"),
            "benchmark": OPTIONS.model_dump(),
            "report": words,
        },
        "made up",
    )
    write_collected(Paths.of(config).collected, METRICS)
    write_benchmark(OPTIONS, REPORT, Paths.of(config).collected, Paths.of(config).benchmark)
    folder = tmp_path / "snapshot"
    write_snapshot(config, folder)
    before = files(folder)
    redrawn = (
        "README.md",
        "compared.md",
        "ablations.csv",
        "search.md",
        "wall_time.md",
        "changes.png",
        "scores.png",
    )
    for name in redrawn:
        (folder / name).unlink()
    redraw_snapshot(folder)
    assert files(folder) == before
    (folder / "provenance.json").write_text("{}")
    with pytest.raises(UserError, match=r"provenance\.json: missing or not a snapshot's"):
        redraw_snapshot(folder)
