"""Trainings killed at random moments, lost ranks, damaged or unwritable states."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.errors import UserError
from vrpo.training import state as state_module
from vrpo.training.state import Snapshot, StateStore

from tests.fixtures.training import Toy, losses, milestone_file

pytestmark = pytest.mark.usefixtures("one_thread")

KILLS = 20


def test_killed_at_twenty_random_moments(toy: Toy, tmp_path: Path) -> None:
    """SIGKILL while starting, training and writing states, which happens after every step.

    The end has the bytes of an undisturbed run.
    """
    config, run = toy.config("vrpo"), tmp_path / "killed"
    whole = toy.train_to(config, tmp_path / "whole", 300).read_bytes()
    met, half_written = toy.drive(300, "kill", KILLS, run)
    assert met == KILLS, "some trainings ended before they were killed"
    assert half_written, "no kill came while a state was written"
    assert toy.train_to(config, run, 300).read_bytes() == whole
    for table in ("train.csv", "diagnostics.csv"):
        assert (run / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
    assert len(list((run / "state").glob("*/step*.pt"))) == 2
    assert not list(run.rglob("*.partial"))


def test_four_ranks_give_the_losses_of_one(toy: Toy, tmp_path: Path) -> None:
    config = toy.config("vrpo", batch_size=16)
    toy.train_to(config, tmp_path / "one", 20)
    result = subprocess.run(
        toy.command(config, tmp_path / "four", 20, ranks=4),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "batch 16 global = 4 ranks x 1 accumulation x 4" in result.stderr
    np.testing.assert_allclose(
        losses(tmp_path / "four"), losses(tmp_path / "one"), rtol=1e-5, atol=1e-5
    )


def test_two_ranks_and_one_is_killed(toy: Toy, tmp_path: Path) -> None:
    """Both end, with a message; started again they end in the bytes of two undisturbed ranks."""
    config, milestone = toy.config("vrpo"), 200
    run = tmp_path / "killed"
    command = toy.command(
        config, run, 100_000, "--save-minutes", "0.000001", ranks=2
    )  # which does not end before it is killed
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    wait_for(lambda: len(list((run / "state").glob("*/step*.pt"))) == 2, process)
    ranks = {rank_of(pid): pid for pid in children_of(process.pid)}
    os.kill(ranks[1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode != 0
    assert not any(is_running(pid) for pid in ranks.values())
    assert "another rank is gone" in stderr or "SIGTERM" in stderr, stderr
    assert not list(run.glob("*.safetensors"))
    assert toy.drive(milestone, "ranks", 2, run, tmp_path / "whole") == [0, 0, 0, 0]
    assert (
        milestone_file(run, milestone).read_bytes()
        == milestone_file(tmp_path / "whole", milestone).read_bytes()
    )


def test_ranks_that_stop_between_two_rows_give_the_rows_of_undisturbed_ones(
    toy: Toy, tmp_path: Path
) -> None:
    """Rows come every five steps, the stop after seven.

    On two ranks the bytes are equal; on another number of ranks the rows are, up to rounding.
    """
    config, folder = (
        toy.config("vrpo"),
        {name: tmp_path / name for name in ("whole", "parts", "two, one", "one, two")},
    )
    toy.train_to(config, folder["one, two"], 7)
    assert toy.drive(7, "ranks", 2, folder["parts"], folder["two, one"]) == [0] * 4
    assert (
        toy.drive(15, "ranks", 2, folder["whole"], folder["parts"], folder["one, two"]) == [0] * 6
    )
    toy.train_to(config, folder["two, one"], 15)
    for file in ("train.csv", "diagnostics.csv", milestone_file(folder["whole"], 15).name):
        assert (folder["parts"] / file).read_bytes() == (folder["whole"] / file).read_bytes()
    for name in ("two, one", "one, two"):
        np.testing.assert_allclose(
            losses(folder[name]), losses(folder["whole"]), rtol=1e-5, atol=1e-5
        )


def test_the_saved_state_is_equal_on_all_ranks(toy: Toy, tmp_path: Path) -> None:
    """The first rank saves for all.

    Sums of metrics, statistics of rewards, diagnostics and agreement must not be its own alone.
    """
    assert toy.drive(7, "states", 2, tmp_path / "run") == [0, 0]
    first, second = (
        torch.load(tmp_path / f"run/rank{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert first["totals"] and any(name.endswith("statistics.sums") for name in first["objective"])
    assert second["data"] == first["data"]
    for part in first.keys() - {"tables", "data"}:  # rows, which the first rank alone writes; text
        torch.testing.assert_close(second[part], first[part], rtol=0, atol=0, equal_nan=True)


def wait_for(condition: Any, process: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def rank_of(pid: int) -> int | None:
    variables = dict(
        pair.partition("=")[::2] for pair in Path(f"/proc/{pid}/environ").read_text().split("\0")
    )
    return int(variables["RANK"]) if "RANK" in variables else None


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_flipped_bit_in_the_newest_state_falls_back_to_the_one_before(
    toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = toy.config("repa")
    whole = toy.train_to(config, tmp_path / "whole", 15).read_bytes()
    for milestone in (5, 10):
        toy.train_to(config, tmp_path / "flipped", milestone)
    file = max((tmp_path / "flipped" / "state").glob("*/*.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert toy.train_to(config, tmp_path / "flipped", 15).read_bytes() == whole
    assert f"{file}: damaged" in caplog.text


@pytest.mark.parametrize("part", ["objective", "ema", "optimizer"])
def test_a_training_state_that_is_not_finite_is_passed_over(
    toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    config = toy.config("repa")
    whole = toy.train_to(config, tmp_path / "whole", 15).read_bytes()
    for step in (5, 10):
        toy.train_to(config, tmp_path / "spoiled", step)
    store = StateStore(tmp_path / "spoiled", config.model_dump(mode="json"))
    state = store.load(10)
    assert state is not None and state["step"] == 10
    tensor = (
        state["optimizer"]["state"][3]["exp_avg"]
        if part == "optimizer"
        else state[part]["network.blocks.0.mlp.fc1.weight"]
    )
    tensor.view(-1)[5] = torch.nan
    store.save(10, state)
    store.wait()
    store.close()
    assert toy.train_to(config, tmp_path / "spoiled", 15).read_bytes() == whole
    name = (
        "optimizer.state.3.exp_avg"
        if part == "optimizer"
        else f"{part}.network.blocks.0.mlp.fc1.weight"
    )
    assert f"{name} [" in caplog.text and "falling back to the state before it" in caplog.text


@pytest.mark.parametrize(
    ("file", "change"),
    [("latents", {"scale": 2.0}), ("latents", {"sha256": "b"}), ("features", {"sha256": "b"})],
)
def test_a_training_does_not_go_on_with_other_latents_or_features(
    tmp_path: Path, file: str, change: dict[str, Any]
) -> None:
    """Equal images and shapes, made by another network or normalised otherwise.

    The config of the run is the same.
    """
    toy = Toy(tmp_path)
    config, place = toy.config("repa"), {"latents": toy.latents, "features": toy.features}[file]
    made = {"images": "toy", "sha256": "a", "scale": 1.0, "batch_size": 8}
    rewrite(place, made)
    toy.train_to(config, tmp_path / "run", 5)
    rewrite(place, made | {"batch_size": 16})  # which changes rounding alone
    toy.train_to(config, tmp_path / "run", 10)
    rewrite(place, made | change)
    (key, value), *_ = change.items()
    changed = rf"{file}\.[^\n]*{key}: {made[key]} -> {value}"
    words = (
        rf"{tmp_path}/run/state/\w+: its states were trained on other latents or "
        rf"features [^\n]*{changed}[^\n]*; give those, or remove"
    )
    with pytest.raises(UserError, match=words):
        toy.train_to(config, tmp_path / "run", 15)
    assert not milestone_file(tmp_path / "run", 15).exists()


def rewrite(path: Path, attributes: dict[str, Any]) -> None:
    """Write the arrays of `path` anew, with other attributes."""
    arrays = Arrays(path)
    rows = {name: np.array(arrays[name]) for name in sorted(arrays.keys())}
    with ArrayWriter(
        path, {name: (values.shape, values.dtype) for name, values in rows.items()}, attributes
    ) as writer:
        writer.write(0, rows)
        writer.finish()


@pytest.mark.parametrize("laid_out", ["fewer diagnostics", "no tables"])
def test_a_state_of_another_version_is_refused_with_a_line(
    toy: Toy, tmp_path: Path, laid_out: str
) -> None:
    config = toy.config("vrpo")
    toy.train_to(config, tmp_path, 5)
    (file,) = (tmp_path / "state").glob("*/*.pt")
    state = torch.load(file, weights_only=True)
    if laid_out == "fewer diagnostics":
        name = next(name for name in state["objective"] if name.endswith("log.sums"))
        state["objective"][name] = state["objective"][name][:, :-3]
    else:
        del state["tables"]
    store = StateStore(tmp_path, config.model_dump(mode="json"))
    store.save(5, state)
    store.wait()
    with pytest.raises(
        UserError,
        match=(
            r"written by another version of vrpo \(.*(log\.sums|tables).*\); .* or "
            r"remove the folder"
        ),
    ) as refused:
        toy.train_to(config, tmp_path, 10)
    assert str(file.parent) in str(refused.value) and "\n" not in str(refused.value)


def test_states_are_written_while_the_training_goes_on(tmp_path: Path) -> None:
    """The state is what it was when saved, and one is written at a time."""
    store, gate, writing = StateStore(tmp_path, {"training": {}}), threading.Event(), []
    save = torch.save

    def slow_save(state: Any, path: Path) -> None:
        writing.append(path)
        assert len(writing) == 1
        gate.wait(30)
        save(state, path)
        writing.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_module.torch, "save", slow_save)
        weights = torch.zeros(3)
        store.save(1, {"weights": weights, "rows": [1]})
        weights += 1  # the next step, while the thread waits
        threading.Timer(0.2, gate.set).start()
        store.save(2, {"weights": weights, "rows": [1, 2]})
        weights += 1
        store.wait()
        store.close()
    assert torch.equal(store.load(1)["weights"], torch.zeros(3))
    assert torch.equal(store.load(2)["weights"], torch.ones(3)) and store.load(2)["rows"] == [1, 2]


def test_a_state_that_cannot_be_written_ends_the_training_with_a_line(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: Any, path: Path) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(state_module.torch, "save", full)
    with pytest.raises(UserError, match=r"state could not be written, .* bytes are free"):
        toy.train_to(toy.config("none"), tmp_path, 100_000, save_minutes=1e-9)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_disk_that_is_too_small_is_refused_first(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is needed for three states (two kept, one being written) and the weights.

    The message gives the bytes.
    """
    config = toy.config("none")
    parameters = 16_000
    monkeypatch.setattr(
        "vrpo.files.shutil.disk_usage", lambda folder: type("Usage", (), {"free": parameters})()
    )
    with pytest.raises(
        UserError,
        match=r"training state and weights needs [\d,]+ bytes but the disk has 16,000 free",
    ):
        toy.train_to(config, tmp_path, 5)
    assert not (tmp_path / "train.csv").exists()


def test_options_without_effect_on_results_go_on_with_the_state(
    toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toy.train_to(toy.config("repa"), tmp_path, 5)
    toy.train_to(
        toy.config("repa", activation_checkpointing=True, latents="resident", attention="math"),
        tmp_path,
        10,
    )
    assert "earlier state of another config" not in caplog.text
    assert len(list((tmp_path / "state").glob("*/config.json"))) == 1


def test_a_snapshot_does_not_follow_what_it_copied() -> None:
    snapshot, weights = Snapshot(), torch.zeros(2)
    first, arrived = snapshot.take({"a": {"weights": weights}, "n": 1})
    arrived()
    weights += 1
    assert torch.equal(first["a"]["weights"], torch.zeros(2)) and first["n"] == 1
    second, _ = snapshot.take({"a": {"weights": weights}, "n": 2})
    assert (
        second["a"]["weights"].data_ptr() == first["a"]["weights"].data_ptr()
    )  # the memory is used again
