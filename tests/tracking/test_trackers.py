"""Trackers get every row once and never stop or change a training."""

from __future__ import annotations

import csv
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vrpo.config.reading import sealed
from vrpo.config.tracking import TrackingOptions
from vrpo.errors import UserError
from vrpo.tracking import trackers
from vrpo.tracking.backends import require_installed
from vrpo.tracking.trackers import Trackers, log_scores

from tests.fixtures.tracking import Failing, Hanging, Recorder, use
from tests.fixtures.training import Toy, assert_same_results, milestone_file

pytestmark = pytest.mark.usefixtures("one_thread")
BLOCK, FULL, LAST = 1 << 15, 1, 4  # of LevelDB's log
WANDB = TrackingOptions(trackers=["wandb"], project="toys")


def table(run: Path) -> list[dict[str, str]]:
    with open(run / "train.csv") as file:
        return list(csv.DictReader(file))


def forget_after(run: Path, step: int) -> None:
    """As if the training had been killed before it saved a later state."""
    for path in [*run.glob("state/*/step*.pt"), *run.glob("*.safetensors")]:
        if int(path.stem.removeprefix("step")) > step:
            path.unlink()


def test_a_tracker_gets_the_rows_of_the_tables(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = use(monkeypatch, Recorder)
    toy.train_to(toy.config("vrpo"), tmp_path, 20, tracking=WANDB)
    (run,) = recorder.opened
    assert (run.name, run.project, run.step) == ("sit-vrpo-seed3", "toys", 0)
    assert run.options["training"]["batch_size"] == 8
    rows = table(tmp_path)
    assert (
        [step for step, _ in recorder.rows] == [int(row["step"]) for row in rows] == [5, 10, 15, 20]
    )
    for row, (_, values) in zip(rows, recorder.rows, strict=True):
        named = {f"train/{name}": float(text) for name, text in row.items() if name != "step"}
        assert named.items() <= values.items()
        assert values["speed/images_per_second"] > 0
        assert any(name.startswith("diagnostics/") for name in values)


def test_after_a_kill_each_step_is_logged_once_in_the_same_run(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, config = use(monkeypatch, Recorder), toy.config("repa")
    toy.train_to(config, tmp_path, 10, tracking=WANDB)
    toy.train_to(config, tmp_path, 20, tracking=WANDB)
    forget_after(tmp_path, 10)
    toy.train_to(config, tmp_path, 30, tracking=WANDB)
    assert [step for step, _ in recorder.rows] == [5, 10, 15, 20, 25, 30]
    assert [run.step for run in recorder.opened] == [0, 10, 10]
    assert len({run.id for run in recorder.opened}) == 1


def test_a_tracker_that_is_added_later_gets_the_earlier_rows(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, config = use(monkeypatch, Recorder), toy.config("none")
    toy.train_to(config, tmp_path, 10)
    toy.train_to(config, tmp_path, 20, tracking=WANDB)
    assert [step for step, _ in recorder.rows] == [5, 10, 15, 20]


def test_other_options_are_another_run_until_they_are_changed_back(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = use(monkeypatch, Recorder)
    for rate, milestone in ((1e-3, 5), (2e-3, 5), (1e-3, 10)):
        toy.train_to(toy.config("none", learning_rate=rate), tmp_path, milestone, tracking=WANDB)
        (tmp_path / f"step{5:07d}.safetensors").unlink(missing_ok=True)
    first, second, third = (run.id for run in recorder.opened)
    assert first == third != second
    assert json.loads((tmp_path / "trackers.json").read_text())["id"] == third


def test_a_failing_tracker_is_dropped_with_one_warning(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = use(monkeypatch, Failing)
    sound = use(monkeypatch, Recorder, "trackio")
    both = TrackingOptions(trackers=["wandb", "trackio"])
    config = toy.config("none")
    toy.train_to(config, tmp_path / "with", 30, tracking=both)
    toy.train_to(config, tmp_path / "without", 30)
    assert_same_results(tmp_path / "with", tmp_path / "without", 30)
    warned = [record.message for record in caplog.records if "tracker" in record.message]
    assert warned == [
        "tracker wandb: failed (the server is on fire); it is dropped, results are not affected"
    ]
    assert len(failing.rows) == 1 and len(sound.rows) == 6


def test_a_tracker_that_hangs_is_given_up_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, Hanging)
    monkeypatch.setattr(trackers, "PATIENCE", 0.1)
    tracked = Trackers(["wandb"], None)
    tracked.scalars(1, {"loss": 1.0})
    tracked.close()
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "tracker wandb: did not end in 0 s"
    ]


def test_a_tracker_that_does_not_keep_up_takes_no_more_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, Hanging)
    monkeypatch.setattr(trackers, "BACKLOG", 3)
    tracked = Trackers(["wandb"], None)
    for step in range(10):
        tracked.scalars(step, {"loss": 1.0})
    tracked.close()
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "tracker wandb: is 3 calls behind"
    ]


def test_a_missing_package_is_refused_before_anything_is_written(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r'wandb not installed here; pip install "vrpo\[trackers\]"'
    ):
        toy.train_to(toy.config("none"), tmp_path / "run", 5, tracking=WANDB)
    assert not (tmp_path / "run").exists()
    require_installed([])


def test_the_first_of_two_ranks_logs(toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `trackers` is not installed")
    file = tmp_path / "tracking.yaml"
    file.write_text(sealed(TrackingOptions(trackers=["tensorboard"]).model_dump(mode="json")))
    result = toy.run(toy.config("none"), tmp_path / "run", 10, "--tracking", str(file), ranks=2)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "run").rglob("events.out.tfevents.*"))) == 1


# ---- the packages themselves ---------------------------------------------------------------------


def train_command(toy: Toy, run: Path, milestone: int, name: str, **variables: str) -> str:
    """Train by the command, in a process of its own, as packages read their settings once."""
    file = run.parent / "tracking.yaml"
    options = TrackingOptions(trackers=[name], project="toys")
    file.write_text(sealed(options.model_dump(mode="json")))
    command = toy.command(toy.config("vrpo"), run, milestone, "--tracking", str(file))
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **variables}, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert milestone_file(run, milestone).is_file()
    return result.stderr


def accumulated(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), {"scalars": 0, "images": 0})
    found.Reload()
    return found


def test_tensorboard_holds_train_csv_once(toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `trackers` is not installed")
    config, options = toy.config("vrpo"), TrackingOptions(trackers=["tensorboard"])
    for milestone in (10, 20, 30):
        toy.train_to(config, tmp_path, milestone, tracking=options)
        forget_after(tmp_path, 10)
    (folder,) = (tmp_path / "tensorboard").iterdir()
    found, rows = accumulated(folder), table(tmp_path)
    assert len(list(folder.iterdir())) == 3, "a file for each start"
    for name in rows[0].keys() - {"step"}:
        events = found.Scalars(f"train/{name}")
        assert [event.step for event in events] == [5, 10, 15, 20, 25, 30]
        values = [float(row[name]) for row in rows]
        assert np.allclose([event.value for event in events], values, rtol=1e-6)


def test_scores_are_beside_the_training_and_not_doubled(toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `trackers` is not installed")
    options = TrackingOptions(trackers=["tensorboard"])
    scored = {"fid": 3.5, "sfid": None}
    log_scores(["tensorboard"], "toys", tmp_path, step=10, sampler="ode", scores=scored)
    assert not list(tmp_path.iterdir()), "no tracker followed this training"
    toy.train_to(toy.config("none"), tmp_path, 10, tracking=options)
    for sampler, fid in (("ode", 9.0), ("sde", 4.5), ("ode", 3.5)):
        scored = {"fid": fid, "sfid": None}
        log_scores(["tensorboard"], "toys", tmp_path, step=10, sampler=sampler, scores=scored)
    (folder,) = (tmp_path / "tensorboard").iterdir()
    found = accumulated(folder / "scores")
    assert sorted(found.Tags()["scalars"]) == ["scores/ode/fid", "scores/sde/fid"]
    assert [(event.step, event.value) for event in found.Scalars("scores/ode/fid")] == [(10, 3.5)]


def test_wandb_offline_holds_each_step_once(toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra `trackers` is not installed")
    run = tmp_path / "run"
    for milestone in (10, 20):
        train_command(toy, run, milestone, "wandb", WANDB_MODE="offline")
    forget_after(run, 10)
    train_command(toy, run, 30, "wandb", WANDB_MODE="offline")
    logged = [wandb_rows(file) for file in sorted(run.glob("wandb/offline-run-*/*.wandb"))]
    assert [[row["_step"] for row in rows] for rows in logged] == [[5, 10], [15, 20], [25, 30]]
    losses = [row["train/loss"] for rows in logged for row in rows]
    assert np.allclose(losses, [float(row["loss"]) for row in table(run)], rtol=1e-6)
    noted = json.loads((run / "trackers.json").read_text())["id"]
    assert {file.stem for file in run.glob("wandb/offline-run-*/*.wandb")} == {f"run-{noted}"}


def wandb_rows(file: Path) -> list[dict[str, Any]]:
    """The history in a file of W&B's: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, data, rows = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if (rest := BLOCK - place % BLOCK) < 7:  # padding
            place += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        data += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (FULL, LAST):
            record, data = wandb_internal_pb2.Record.FromString(data), b""
            items = record.history.item  # none in other records
            row = {each.key or ".".join(each.nested_key): each.value_json for each in items}
            rows += [{name: json.loads(value) for name, value in row.items()}] if row else []
    return rows


def test_wandb_without_credentials_logs_offline(toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra `trackers` is not installed")
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_API_KEY": ""}
    said = train_command(toy, tmp_path / "run", 10, "wandb", WANDB_MODE="", **home)
    assert said.count("no credentials") == 1
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))


def test_trackio_holds_each_step_once(toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="the extra `trackers` is not installed")
    run, place = tmp_path / "run", {"TRACKIO_DIR": str(tmp_path / "trackio")}
    for milestone in (10, 20):
        train_command(toy, run, milestone, "trackio", **place)
    forget_after(run, 10)
    train_command(toy, run, 30, "trackio", **place)
    noted = json.loads((run / "trackers.json").read_text())["id"]
    code = (
        "import json; from trackio.sqlite_storage import SQLiteStorage; "
        f"print(json.dumps(SQLiteStorage.get_logs('toys', 'sit-vrpo-seed3-{noted}'), default=str))"
    )
    read = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **place}
    )
    rows = json.loads(read.stdout.splitlines()[-1])
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    losses = [float(row["loss"]) for row in table(run)]
    assert np.allclose([row["train/loss"] for row in rows], losses, rtol=1e-6)
