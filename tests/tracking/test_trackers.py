"""Trackers get every row once and never stop or change a training."""

from __future__ import annotations

import csv
import json
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vrpo.config.tracking import TrackingOptions
from vrpo.errors import UserError
from vrpo.runtime.distributed import Ranks
from vrpo.tracking import backends, trackers
from vrpo.tracking.backends import require_installed
from vrpo.tracking.trackers import Trackers, log_scores

from tests.fixtures.tracking import Failing, Hanging, Recorder, use
from tests.fixtures.training import Toy, assert_same_results

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
        assert any(name.startswith("train_by_noise_level/") for name in values)


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


def test_other_ranks_than_the_first_log_nothing(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = use(monkeypatch, Recorder)
    monkeypatch.setattr(Ranks, "is_main", False)
    toy.train_to(toy.config("none"), tmp_path / "run", 10, tracking=WANDB)
    assert not recorder.opened and not (tmp_path / "run").exists()


# ---- the packages themselves ---------------------------------------------------------------------


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


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """W&B reads the environment once in a process."""
    wandb = pytest.importorskip("wandb", reason="the extra `trackers` is not installed")
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("fresh_wandb")
def test_wandb_offline_holds_each_step_once(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = toy.config("vrpo")
    for milestone in (10, 20, 30):
        toy.train_to(config, tmp_path, milestone, tracking=WANDB)
        if milestone == 20:
            forget_after(tmp_path, 10)
    noted = json.loads((tmp_path / "trackers.json").read_text())["id"]
    files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert {file.stem for file in files} == {f"run-{noted}"}
    rows = sorted((row for file in files for row in wandb_rows(file)), key=lambda row: row["_step"])
    assert [row["_step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    losses = [float(row["loss"]) for row in table(tmp_path)]
    assert np.allclose([row["train/loss"] for row in rows], losses, rtol=1e-6)


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


def said_by_us(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == backends.__name__]


@pytest.mark.usefixtures("fresh_wandb")
def test_wandb_without_credentials_logs_offline(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    toy.train_to(toy.config("none"), tmp_path, 10, tracking=WANDB)
    warned = said_by_us(caplog)
    assert len(warned) == 1 and "no credentials" in warned[0]
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert [row["_step"] for row in wandb_rows(file)] == [5, 10]


@pytest.mark.usefixtures("fresh_wandb")
def test_wandb_without_a_server_logs_offline(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.setattr(backends, "CONNECTING", 2.0)
        toy.train_to(toy.config("none"), tmp_path, 10, tracking=WANDB)
    warned = said_by_us(caplog)
    assert len(warned) == 1 and "no connection" in warned[0]
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert [row["_step"] for row in wandb_rows(file)] == [5, 10]


def test_trackio_holds_each_step_once(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio", reason="the extra `trackers` is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads its folder when it is imported
    run, config = tmp_path / "run", toy.config("vrpo")
    options = TrackingOptions(trackers=["trackio"], project="toys")
    for milestone in (10, 20, 30):
        toy.train_to(config, run, milestone, tracking=options)
        if milestone == 20:
            forget_after(run, 10)
    from trackio.sqlite_storage import SQLiteStorage

    noted = json.loads((run / "trackers.json").read_text())["id"]
    rows = SQLiteStorage.get_logs("toys", f"sit-vrpo-seed3-{noted}")
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    losses = [float(row["loss"]) for row in table(run)]
    assert np.allclose([row["train/loss"] for row in rows], losses, rtol=1e-6)
