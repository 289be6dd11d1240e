"""The table of `vrpo status`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vrpo.cli import main
from vrpo.cli.status import described, duration
from vrpo.config import load_experiment
from vrpo.plan.paths import Paths
from vrpo.plan.resolved import Plan
from vrpo.workflow.failures import Failure
from vrpo.workflow.status import SavedState, Status, Training

from tests.fixtures import ROOT
from tests.fixtures.workflow import TINY

TRAININGS = [
    Training("sit", 0, "done", 2000, 2000, 2000, 4.0, {"loss": 0.5}, None, ""),
    Training(
        *("sit-vrpo", 0, "running?", 1000, 500, 2000, 4.0),
        {"loss": 0.25, "alignment": -0.125},
        SavedState(900, 61),
        "host node17, pid 3, SLURM job 42",
    ),
]


def test_the_table() -> None:
    failed = [Failure(Path("results/mini/logs/reference.log"), 7200, "vrpo: error: a: b; c")]
    status = Status(Path("results/mini"), TRAININGS, 1, 4, failed, "")
    assert described(status).splitlines() == [
        "results/mini: 2 trainings (1 done, 1 running), 1 of 4 scores; no workflow runs",
        "run       seed  state            step  milestone  steps/s        left  loss  alignment"
        "             saved at  holder",
        "sit          0  done      2,000/2,000      2,000        4           -   0.5          -"
        "                    -  -",
        "sit-vrpo     0  running?  1,000/2,000        500        4  4 min 10 s  0.25     -0.125"
        "  900 (1 min 1 s ago)  host node17, pid 3, SLURM job 42",
        "running?: its process is on another machine and cannot be seen from here",
        "failed 2 h ago: results/mini/logs/reference.log",
        "  vrpo: error: a: b; c",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (7205, "2 h"), (180_000, "2 d 2 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vrpo", "status", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def test_all_experiments_are_shown_before_the_error_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan.of(load_experiment(TINY))
    plan.write()
    assert run(monkeypatch) == run(monkeypatch, "tiny") == 0
    first, second = capsys.readouterr().out.split("results/tiny: ")[1:]
    assert first == second and "sit-vrpo" in first
    old = Path("results/old/.plan.yaml")
    old.parent.mkdir()
    old.write_text("experiment: old\nnothing: 1\n")
    assert run(monkeypatch) == 2
    said = capsys.readouterr()
    assert said.out == f"results/tiny: {first}"
    assert (
        said.err.startswith("vrpo: error: results/old/.plan.yaml: ") and said.err.count("\n") == 1
    )
    assert run(monkeypatch, "unknown") == 2


def test_watching_shows_it_again_until_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan.of(load_experiment(TINY))
    plan.write()
    weights = Paths.of(plan.experiment).milestone("dit-none", 0, 16)
    waits = iter([lambda: (weights.parent.mkdir(parents=True), weights.touch()), interrupt])
    monkeypatch.setattr("vrpo.cli.status.time.sleep", lambda seconds: next(waits)())
    assert run(monkeypatch, "--watch") == 0
    before, after = capsys.readouterr().out.split("results/tiny: ")[1:]
    assert "(2 waiting)" in before and "(1 done, 1 waiting)" in after


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("arguments", [["--help"], ["status"]])
def test_it_starts_without_what_computes(arguments: list[str], tmp_path: Path) -> None:
    """Neither torch nor NumPy is loaded, which take seconds on a cold disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        Plan.of(load_experiment(TINY)).write()
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vrpo", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "vrpo.cli" in loaded
    assert not loaded & {"torch", "numpy", "h5py", "pandas", "matplotlib", "snakemake"}
