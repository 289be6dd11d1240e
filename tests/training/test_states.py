"""Training states: damaged, of another run or version, unwritable; and what they resume."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.errors import UserError
from vrpo.training import state as state_module
from vrpo.training.state import Snapshot, StateStore

from tests.fixtures.training import Toy, assert_same_results, milestone_file

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_damaged_state_falls_back_to_the_one_before(
    toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = toy.config("vrpo")
    toy.train_to(config, tmp_path / "whole", 15)
    for milestone in (5, 10):
        toy.train_to(config, tmp_path / "damaged", milestone)
    newest = max((tmp_path / "damaged" / "state").glob("*/*.pt"))
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    toy.train_to(config, tmp_path / "damaged", 15)
    assert "damaged" in caplog.text
    assert_same_results(tmp_path / "whole", tmp_path / "damaged", 15)


def test_another_config_starts_anew_and_says_what_differs(
    toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toy.train_to(toy.config("repa"), tmp_path / "run", 5)
    first = milestone_file(tmp_path / "run", 5).read_bytes()
    toy.train_to(toy.config("repa", learning_rate=2e-3), tmp_path / "run", 5)
    assert "training.learning_rate: 0.001 -> 0.002" in caplog.text
    assert milestone_file(tmp_path / "run", 5).read_bytes() != first
    toy.train_to(toy.config("repa"), tmp_path / "run", 5)  # back again: the earlier state serves
    assert milestone_file(tmp_path / "run", 5).read_bytes() == first


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
