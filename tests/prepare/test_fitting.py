"""Fits of tokenizers and classifiers: they learn, and end where they diverge."""

from __future__ import annotations

import itertools

import pytest
import torch

from vrpo.config.networks import FitOptions, NetworkOptions, TokenizerOptions
from vrpo.errors import UserError
from vrpo.models.checkpoints import read_network
from vrpo.prepare.classifier import fit_classifier
from vrpo.prepare.fitting import fit, schedule
from vrpo.prepare.pixels import augment
from vrpo.prepare.tokenizer import fit_tokenizer

from tests.fixtures.prepared import pngs

pytestmark = pytest.mark.usefixtures("one_thread")


def test_classifier_learns(folder, tmp_path):
    options = NetworkOptions(
        architecture="test_resnet",
        weights="trained",
        image_size=16,
        training=FitOptions(steps=40, batch_size=16, learning_rate=2e-3),
    )
    fit_classifier(options, folder / "images.h5", tmp_path / "net.safetensors", "cpu")
    _, description = read_network(tmp_path / "net.safetensors")
    assert (
        description["accuracy"] == 1.0
        and description["num_classes"] == 2
        and description["architecture"] == "test_resnet"
    )


def test_tokenizer_learns(folder, tmp_path):
    def psnr(steps):
        fitted = pngs(folder).tokenizer.model_copy(
            update={"training": FitOptions(steps=steps, batch_size=8, learning_rate=4e-3)}
        )
        fit_tokenizer(fitted, folder / "images.h5", tmp_path / "vae.safetensors", "cpu")
        return read_network(tmp_path / "vae.safetensors")[1]["psnr"]

    assert psnr(40) > psnr(1) + 5


def test_fit_stops_at_a_loss_that_is_not_finite(folder, tmp_path):
    options = pngs(folder).encoder.model_copy(
        update={"training": FitOptions(steps=30, batch_size=8, learning_rate=1e30)}
    )
    with pytest.raises(UserError, match=r"lower `training\.learning_rate`"):
        fit_classifier(options, folder / "images.h5", tmp_path / "net.safetensors", "cpu")
    assert not (tmp_path / "net.safetensors").exists()


def test_too_many_levels_for_the_images(folder, tmp_path):
    with pytest.raises(UserError, match="6 levels divide by 32"):
        fit_tokenizer(
            TokenizerOptions(block_channels=[8] * 6),
            folder / "images.h5",
            tmp_path / "vae.safetensors",
            "cpu",
        )


def test_augmentation_is_light_and_seeded():
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    images[:, :, 6:10, 6:10] = 200
    moved = augment(images, torch.Generator().manual_seed(0))
    assert moved.dtype == torch.uint8 and torch.equal(
        moved, augment(images, torch.Generator().manual_seed(0))
    )
    assert not torch.equal(moved[0], moved[1])
    assert (
        moved.float().mean(dim=(1, 2, 3)) / images.float().mean(dim=(1, 2, 3)) - 1
    ).abs().max() < 0.4
    assert (moved[:, :, 7:9, 7:9] > 100).all()


def test_schedule():
    rates = [schedule(step, 100) for step in range(100)]
    assert (
        rates[0] == pytest.approx(0.2, rel=0.01)
        and max(rates) == pytest.approx(1, abs=0.02)
        and rates[-1] < 1e-3
    )
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[5:]))


def test_a_fit_whose_last_step_diverges_is_refused() -> None:
    """The loss of that step is finite, its gradient is not."""
    network = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    with pytest.raises(
        UserError,
        match=(
            r"^critic: weight \[1, 2\] holds NaN or infinite values [^\n]*lower "
            r"`training.learning_rate` \(0.001\)$"
        ),
    ):
        fit(network, FitOptions(steps=1), lambda _: network.weight.sqrt().sum(), "critic")
