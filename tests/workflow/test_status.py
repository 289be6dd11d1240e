"""Progress of an experiment's trainings, read from files that look like those of a workflow."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vrpo.config import load_experiment
from vrpo.errors import UserError
from vrpo.files import exclusive_lock
from vrpo.holders import holder_of_this_process
from vrpo.plan.paths import Paths
from vrpo.plan.resolved import Plan
from vrpo.workflow.status import Training, results_folders, status_of

from tests.fixtures import ROOT
from tests.fixtures.workflow import TINY

ELSEWHERE = {**holder_of_this_process(), "host": "node17", "boot": "another", "job": "42"}
TRAIN = "step,loss,denoising,alignment,grad_norm,skipped\n4,1.5,1,0.5,2,0\n8,1.25,1,0.25,2,0\n"
SPEED = "step,images_per_second,seconds\n4,16.0,4.00\n8,32.0,2.00\n"


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Paths of the tiny experiment, whose workflow was started: 2 runs, milestones 8 and 16."""
    monkeypatch.chdir(tmp_path)
    plan = Plan.of(load_experiment(TINY))
    plan.write()
    return Paths.of(plan.experiment)


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def started(paths: Paths, run: str = "sit-vrpo") -> Path:
    """The folder of a training that has done 8 steps, a milestone, and saved its state."""
    folder = paths.run(run, 0)
    write(folder / "train.csv", TRAIN)
    write(folder / "speed.csv", SPEED)
    state = write(folder / "state/0123456789ab/step0000008.pt")
    os.utime(state, (time.time() - 90, time.time() - 90))
    write(paths.milestone(run, 0, 8))
    return folder


def row(paths: Paths, run: str = "sit-vrpo") -> Training:
    (found,) = [row for row in status_of(paths.folder).trainings if row.run == run]
    return found


def test_nothing_has_begun(paths: Paths) -> None:
    status = status_of(paths.folder)
    assert [(row.run, row.state, row.step, row.total) for row in status.trainings] == [
        ("sit-vrpo", "waiting", 0, 16),
        ("dit-none", "waiting", 0, 16),
    ]
    assert (status.scores, status.planned_scores, status.workflow) == (0, 3, "")
    assert not status.failures


def test_a_running_training(paths: Paths) -> None:
    folder = started(paths)
    with exclusive_lock(folder / "state/lock", "a training"):
        found = row(paths)
    assert (found.state, found.step, found.milestone, found.total) == ("running", 8, 8, 16)
    assert found.losses == {"loss": 1.25, "denoising": 1.0, "alignment": 0.25}
    assert found.rate == pytest.approx(128 / 6 / 16)  # 128 images in 6 s, batch 16
    assert found.left == pytest.approx(8 / found.rate)
    assert found.saved.step == 8 and 89 < found.saved.age < 600
    assert f"pid {os.getpid()}," in found.holder


def test_a_training_waits_for_the_next_milestone(paths: Paths) -> None:
    folder = started(paths)
    with exclusive_lock(folder / "state/lock", "a training"):
        pass
    found = row(paths)
    assert (found.state, found.step, found.holder, found.left) == ("waiting", 8, "", None)


@pytest.mark.parametrize("table", [True, False])
def test_a_training_that_ended_before_a_milestone_is_stopped(paths: Paths, table: bool) -> None:
    folder = started(paths)
    paths.milestone("sit-vrpo", 0, 8).unlink()
    if not table:
        (folder / "train.csv").unlink()
    assert (row(paths).state, row(paths).step) == ("stopped", 8 if table else 0)


def test_a_killed_training_is_stopped(paths: Paths) -> None:
    lock = started(paths) / "state/lock"
    code = (
        "import os, sys; from pathlib import Path; from vrpo.files import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1]), 'a training'): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(lock.resolve())], cwd=ROOT, check=False)
    assert "pid" in lock.read_text()
    paths.milestone("sit-vrpo", 0, 8).unlink()
    assert (row(paths).state, row(paths).holder) == ("stopped", "")


def test_a_process_of_another_host_may_run(paths: Paths) -> None:
    write(started(paths) / "state/lock", json.dumps(ELSEWHERE))
    found = row(paths)
    assert found.state == "running?" and found.left
    assert found.holder == f"host node17, pid {os.getpid()}, SLURM job 42"


def test_a_lock_without_a_record_names_nobody(paths: Paths) -> None:
    write(started(paths) / "state/lock", '{"host": "node')
    assert (row(paths).state, row(paths).holder) == ("running?", "an unknown process")


def test_the_last_milestone_ends_a_training(paths: Paths) -> None:
    folder = started(paths)
    write(folder / "state/lock", json.dumps(ELSEWHERE))
    write(paths.milestone("sit-vrpo", 0, 16))
    found = row(paths)
    assert (found.state, found.step, found.milestone, found.left) == ("done", 16, 16, None)


def test_a_training_that_begins_anew_is_not_done(paths: Paths) -> None:
    """Its options were changed, so a later milestone of the earlier ones is still there."""
    folder = started(paths)
    write(paths.milestone("sit-vrpo", 0, 16))
    write(folder / "train.csv", TRAIN.rpartition("8,")[0])
    with exclusive_lock(folder / "state/lock", "a training"):
        assert (row(paths).state, row(paths).step) == ("running", 4)


@pytest.mark.parametrize("train", ["", "step,loss\n", TRAIN[:-3], "step,loss\n4,a\n", "\0\n\0\n"])
def test_tables_that_are_cut_or_damaged(paths: Paths, train: str) -> None:
    folder = started(paths)
    write(folder / "train.csv", train)
    write(folder / "speed.csv", train)
    found = row(paths)
    assert found.losses.get("loss") == (1.5 if train == TRAIN[:-3] else None)
    assert (found.step, found.rate) == (8, None)


def test_scores_and_workflow(paths: Paths) -> None:
    write(paths.metrics("sit-vrpo", 0, 8, "ode"))
    with exclusive_lock(paths.folder / ".lock", "a workflow"):
        status = status_of(paths.folder)
    assert (status.scores, status.planned_scores) == (1, 3)
    assert f"pid {os.getpid()}," in status.workflow


def test_results_that_were_moved(paths: Paths) -> None:
    started(paths)
    moved = paths.folder.rename("moved")
    (found,) = [row for row in status_of(moved).trainings if row.run == "sit-vrpo"]
    assert found.step == 8


def test_folders_of_experiments(paths: Paths) -> None:
    assert results_folders(None) == results_folders("tiny") == [paths.folder]
    assert results_folders(str(paths.folder.resolve())) == [paths.folder.resolve()]
    write(Path("results/other/notes.txt"))
    assert results_folders(None) == [paths.folder]


def test_what_is_no_experiment_has_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^results: holds no results; start one"):
        results_folders(None)
    Path("results/empty").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^mini: neither results/mini nor mini is .*\(empty\)"):
        results_folders("mini")
    with pytest.raises(UserError, match=r"^results/empty: is empty; start one"):
        status_of(Path("results/empty"))
    write(Path("results/old/runs/sit/train.csv"))
    with pytest.raises(UserError, match=r"^results/old: has no \.plan\.yaml, so it is of another"):
        status_of(Path("results/old"))
    plan = write(Path("results/old/.plan.yaml"), "experiment: old\nmethods: {}\n")
    for text in (plan.read_text(), "experiment: [\n", "\0"):
        plan.write_text(text)
        with pytest.raises(UserError, match=r"^results/old/\.plan\.yaml: cannot be read") as error:
            status_of(Path("results/old"))
        assert "\n" not in str(error.value)
