"""Previews: the grids of the averaged network, and that they change no result."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vrpo.config.tracking import PreviewOptions, TrackingOptions
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.sampling.preview import PreviewSampler
from vrpo.training import previews
from vrpo.training.building import build_objective
from vrpo.training.previews import GAP, tiled

from tests.fixtures.tracking import Recorder, use
from tests.fixtures.training import Toy, assert_same_results
from tests.fixtures.vae import PLAIN, SHIFTED, options, write_vae

pytestmark = pytest.mark.usefixtures("one_thread")
PREVIEW = PreviewOptions(every=4, images=5, steps=3)
SIDE = 8  # latents of 4x4


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PreviewSampler]:
    """As `vrpo train` makes what samples previews."""
    vae = write_vae(tmp_path_factory.mktemp("vae"), **PLAIN)
    return functools.partial(PreviewSampler, PREVIEW, options(vae), None)


@pytest.mark.parametrize(("alignment", "process"), [("everything", "sit"), ("vrpo", "dit")])
def test_weights_are_the_same_to_the_byte(
    toy: Toy,
    tmp_path: Path,
    maker: Callable[..., PreviewSampler],
    alignment: str,
    process: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder, config = use(monkeypatch, Recorder), toy.config(alignment, process)
    tracking = TrackingOptions(trackers=["wandb"], preview=PREVIEW)
    toy.train_to(config, tmp_path / "without", 10)
    before = torch.random.get_rng_state()
    toy.train_to(config, tmp_path / "with", 10, tracking=tracking, preview=maker)
    assert torch.equal(before, torch.random.get_rng_state())
    assert_same_results(tmp_path / "with", tmp_path / "without", 10)
    files = sorted((tmp_path / "with/previews").iterdir())
    assert [path.name for path in files] == ["step0000004.png", "step0000008.png"]
    shape = (2 * SIDE + GAP, 3 * SIDE + 2 * GAP, 3)
    assert recorder.images == [(4, "preview", shape), (8, "preview", shape)]
    first, second = (np.asarray(Image.open(path)) for path in files)
    assert first.shape == shape and not np.array_equal(first, second), "the network has learnt"


def test_a_resumed_training_draws_the_same_grids(
    toy: Toy, tmp_path: Path, maker: Callable[..., PreviewSampler]
) -> None:
    config, tracking = toy.config("none"), TrackingOptions(preview=PREVIEW)
    train = functools.partial(toy.train_to, config, tracking=tracking, preview=maker)
    train(tmp_path / "whole", 8)
    train(tmp_path / "parts", 4)
    late = tmp_path / "parts/previews/step0000012.png"  # of a training with other options
    late.write_bytes(b"")
    train(tmp_path / "parts", 8)
    assert not late.exists()
    for name in ("step0000004.png", "step0000008.png"):
        files = [tmp_path / folder / "previews" / name for folder in ("whole", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_full_disk_ends_previews_with_one_warning(
    toy: Toy,
    tmp_path: Path,
    maker: Callable[..., PreviewSampler],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(previews.Image.Image, "save", full)
    config, tracking = toy.config("none"), TrackingOptions(preview=PREVIEW)
    toy.train_to(config, tmp_path / "full", 12, tracking=tracking, preview=maker)
    toy.train_to(config, tmp_path / "without", 12)
    assert_same_results(tmp_path / "full", tmp_path / "without", 12)
    (warned,) = [record.message for record in caplog.records if "preview" in record.message]
    assert warned.startswith("step 4: no preview") and "the disk is full" in warned
    assert not list((tmp_path / "full/previews").iterdir())


def test_classes_are_those_that_are_asked_for() -> None:
    assert PreviewOptions(images=6).labels(3) == [0, 0, 1, 1, 2, 2]
    assert PreviewOptions(images=4).labels(1000) == [0, 250, 500, 750]
    assert PreviewOptions(images=5, classes=[7, 2]).labels(10) == [7, 2, 7, 2, 7]


def test_a_tokenizer_of_other_latents_is_refused_before_the_first_step(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.config("none")
    data = TrainingData(toy.latents, {})
    data.latents.attributes.update(scale=0.5, shift=0.0)
    sampler = functools.partial(PreviewSampler, PREVIEW)
    device = torch.device("cpu")
    sampler(options(write_vae(tmp_path / "own", **PLAIN)), None, config, data, device)
    with pytest.raises(UserError, match="another normalisation"):
        sampler(options(write_vae(tmp_path / "other", **SHIFTED)), None, config, data, device)


def test_labels_decide_what_is_drawn(toy: Toy, tmp_path: Path) -> None:
    """Two images of one class differ by their noise, and a class by its label."""
    config, data, device = toy.config("none"), TrainingData(toy.latents, {}), torch.device("cpu")
    network = build_objective(config, data, {}, device).network.eval()
    torch.nn.init.normal_(network.final_layer.linear.weight)  # zero at first, as in DiT
    torch.nn.init.normal_(network.final_layer.adaLN_modulation[-1].weight)
    drawn = {}
    for classes in ((0, 0), (0, 1)):
        chosen = PreviewOptions(images=2, steps=3, classes=list(classes))
        tokenizer = options(write_vae(tmp_path / str(classes), **PLAIN))
        drawn[classes] = PreviewSampler(chosen, tokenizer, None, config, data, device)(network)
    assert np.array_equal(drawn[0, 0][0], drawn[0, 1][0])
    assert not np.array_equal(drawn[0, 0][0], drawn[0, 0][1])
    assert not np.array_equal(drawn[0, 0][1], drawn[0, 1][1])


def test_tiles_are_in_rows() -> None:
    images = np.stack([np.full((2, 2, 3), value, np.uint8) for value in range(3)])
    canvas = tiled(images)
    assert canvas.shape == (2 * 2 + GAP, 2 * 2 + GAP, 3)
    assert (canvas[:2, :2] == 0).all() and (canvas[:2, 2 + GAP :] == 1).all()
    assert (canvas[2 + GAP :, :2] == 2).all() and (canvas[2 + GAP :, 2 + GAP :] == 255).all()
