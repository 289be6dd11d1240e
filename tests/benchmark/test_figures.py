"""Figures of a made-up benchmark."""

from pathlib import Path

import pytest

from vrpo.benchmark import figures, numbers

from tests.fixtures.benchmark import METRICS, OPTIONS, REPORT, write_collected


def test_changes_are_those_of_the_ablations_and_of_repa(tmp_path: Path) -> None:
    _, data = figures.changes(
        numbers.Benchmark(OPTIONS, REPORT, write_collected(tmp_path, METRICS))
    )
    assert set(data["process"]) == {"sit"}, "ablations were run on one process"
    fid = data[data["score"] == "fid"].set_index("alignment")["change"]
    assert fid.to_dict() == pytest.approx(
        {"vrpo-worse": 3.0, "vrpo-alike": 0.0, "REPA": 2.0}, abs=1e-12
    )
