"""Latents, milestones and samples of a VAE.

They are never decoded with another normalisation.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from vrpo.config.networks import TokenizerOptions
from vrpo.config.scoring import RepresentationOptions, SamplerOptions
from vrpo.data.arrays import Arrays
from vrpo.errors import UserError
from vrpo.metrics.representation import measure_representation
from vrpo.models.checkpoints import load_milestone, read_network, save_network
from vrpo.models.tokenizer import load_tokenizer
from vrpo.prepare.latents import encode_latents
from vrpo.prepare.tokenizer import fit_tokenizer
from vrpo.sampling.generate import sample_images
from vrpo.training.run import train

from tests.fixtures.training import Toy
from tests.fixtures.vae import (
    EACH,
    EACH_SCALED,
    FITTED,
    PLAIN,
    SHIFTED,
    options,
    pixels,
    write_images,
    write_vae,
)

pytestmark = pytest.mark.usefixtures("one_thread")


class Chain:
    """Images, latents of a VAE, a milestone trained on them, and samples."""

    def __init__(self, folder: Path, toy: Toy) -> None:
        self.folder, self.toy, self.images = folder, toy, folder / "images.h5"
        write_images(self.images, pixels(12))

    def latents(self, tokenizer: TokenizerOptions, weights: Path | None = None) -> Path:
        encode_latents(tokenizer, self.images, weights, self.folder / "latents.h5", "cpu")
        return self.folder / "latents.h5"

    def milestone(self, latents: Path) -> Path:
        path = self.folder / "run" / "step0000001.safetensors"
        train(
            self.toy.config("none"),
            latents=latents,
            features={},
            critics={},
            milestone=1,
            output=path,
            device="cpu",
        )
        return path

    def sample(
        self,
        milestone: Path,
        tokenizer: TokenizerOptions,
        weights: Path | None = None,
        decoder: str | None = None,
    ) -> Path:
        sampler = SamplerOptions(
            kind="ode-euler", steps=2, images=2, guidance={"scale": 1.0}, decoder=decoder
        )
        sample_images(sampler, milestone, tokenizer, weights, self.folder / "samples.h5", "cpu")
        return self.folder / "samples.h5"


@pytest.fixture
def chain(tmp_path: Path, toy: Toy) -> Chain:
    return Chain(tmp_path, toy)


CONFIGS = {"plain": PLAIN, "shifted": SHIFTED, "each": EACH, "each, other": EACH_SCALED}


@pytest.mark.parametrize("trained", CONFIGS)
def test_samples_are_decoded_with_the_normalisation_of_the_latents_alone(
    chain: Chain, trained: str
) -> None:
    folders = {
        name: write_vae(chain.folder / str(index), **config)
        for index, (name, config) in enumerate(CONFIGS.items())
    }
    own = options(folders[trained])
    latents = chain.latents(own)
    tokenizer = load_tokenizer(own, None, "cpu")
    attributes = Arrays(latents).attributes
    assert (attributes["scale"], attributes["shift"]) == (tokenizer.scale, tokenizer.shift)
    stored = Arrays(latents)["mean"]
    torch.testing.assert_close(
        torch.from_numpy(np.array(stored)),
        tokenizer.encode(torch.from_numpy(pixels(12)).permute(0, 3, 1, 2))[0],
        rtol=1e-4,
        atol=1e-4,
    )
    milestone = chain.milestone(latents)
    assert load_milestone(milestone)[1]["normalisation"] == {
        "scale": tokenizer.scale,
        "shift": tokenizer.shift,
    }
    samples = Arrays(chain.sample(milestone, own))
    protocol = samples.attributes["tokenizer"]
    assert (protocol["scale"], protocol.get("shift", 0.0)) == (tokenizer.scale, tokenizer.shift)
    (chain.folder / "samples.h5").unlink()
    for name in folders.keys() - {trained}:
        for give in (
            {"tokenizer": options(folders[name])},
            {"tokenizer": own, "decoder": str(folders[name])},
        ):
            with pytest.raises(
                UserError,
                match=(
                    rf"^{milestone}: was trained on latents of another normalisation "
                    rf"[^\n]*{folders[name]}[^\n]*; give the VAE"
                ),
            ):
                chain.sample(milestone, **give)
    with pytest.raises(UserError, match="another normalisation"):
        chain.sample(milestone, options(folders[trained], scale=0.4))
    assert not (chain.folder / "samples.h5").exists()


def test_a_trained_tokenizers_files_say_what_they_said(chain: Chain) -> None:
    """Its scale is in its own file.

    Nothing is added to latents and milestones, and their bytes stay. Decoding each channel
    otherwise is refused.
    """
    weights = chain.folder / "tokenizer.safetensors"
    fit_tokenizer(FITTED, chain.images, weights, "cpu")
    latents = chain.latents(FITTED, weights)
    assert Arrays(latents).attributes.keys() == {
        "images",
        "resolution",
        "tokenizer",
        "sha256",
        "scale",
        "batch_size",
    }
    milestone = chain.milestone(latents)
    assert read_network(milestone)[1].keys() == {
        "run",
        "seed",
        "step",
        "model",
        "process",
        "alignment",
        "latent_shape",
        "out_channels",
        "config_sha256",
    }
    samples = chain.sample(milestone, FITTED, weights)
    assert Arrays(samples).attributes["tokenizer"].keys() == {"weights", "scale", "sha256"}
    with pytest.raises(
        UserError, match="was trained on latents without a normalisation of each channel"
    ):
        chain.sample(milestone, options(write_vae(chain.folder / "vae", **EACH)))


def test_weights_trained_elsewhere_are_decoded_with_what_is_given(chain: Chain) -> None:
    folder = write_vae(chain.folder / "vae", **EACH)
    milestone = chain.milestone(chain.latents(options(folder)))
    state, description = read_network(milestone)
    del description["normalisation"]
    save_network(milestone, state, description | {"source": {"family": "irepa"}})
    assert chain.sample(milestone, options(folder)).exists()


def test_representations_are_measured_on_latents_of_the_same_normalisation(chain: Chain) -> None:
    milestone = chain.milestone(chain.latents(options(write_vae(chain.folder / "a", **EACH))))
    other = chain.latents(options(write_vae(chain.folder / "b", **EACH_SCALED)))
    with pytest.raises(
        UserError,
        match=(
            rf"^{milestone}: was trained on latents of another normalisation [^\n]*than "
            rf"that of {other}"
        ),
    ):
        measure_representation(
            RepresentationOptions(images=120, noise_levels=[0.2, 0.8], batch_size=50),
            milestone,
            other,
            {},
            chain.folder / "out.json",
            "cpu",
        )
    assert not (chain.folder / "out.json").exists()


@pytest.mark.parametrize(("scale", "warned"), [(None, False), (1e-3, True), (1e3, True)])
def test_a_deviation_far_from_one_is_a_warning(
    chain: Chain, caplog: pytest.LogCaptureFixture, scale: float | None, warned: bool
) -> None:
    folder = write_vae(chain.folder / "vae", **PLAIN)
    unscaled = load_tokenizer(options(folder, scale=1.0), None, "cpu").encode(
        torch.from_numpy(pixels(12)).permute(0, 3, 1, 2)
    )
    deviation = float((unscaled[0].var(correction=0) + unscaled[1].square().mean()).sqrt())
    with caplog.at_level(logging.INFO):
        chain.latents(options(folder, scale=scale or 1 / deviation))
    assert ("diffusion wants about 1" in caplog.text) == warned
    assert warned or "standard deviation 1.0000" in caplog.text


def test_latents_that_are_not_finite_or_overflow_are_refused(chain: Chain) -> None:
    folder = write_vae(chain.folder / "vae", scaling_factor=1e6)
    with pytest.raises(
        UserError,
        match=(
            r"latents\.h5: `mean` of images 0 to 11 is not finite; give other weights, "
            r"or a wider `storage`"
        ),
    ):
        chain.latents(options(folder, storage="float16"))
    assert not (chain.folder / "latents.h5").exists()
    assert chain.latents(options(folder, storage="float32")).exists()


def test_a_resolution_that_does_not_come_back_is_refused(chain: Chain) -> None:
    write_images(chain.images, pixels(2, 9))
    folder = write_vae(chain.folder / "vae", **PLAIN)
    with pytest.raises(
        UserError,
        match=(
            r"data\.resolution: images of 9 pixels have latents of 4, which decode to 8 "
            r"pixels; choose a multiple of 2"
        ),
    ):
        chain.latents(options(folder))
    assert not (chain.folder / "latents.h5").exists()
