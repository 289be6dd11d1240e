"""Latents of a pretrained VAE: normalised as its config says, and back when decoded.

They are never decoded with another normalisation.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from vrpo.config.networks import FitOptions, TokenizerOptions
from vrpo.config.scoring import RepresentationOptions, SamplerOptions
from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.errors import UserError
from vrpo.metrics.representation import measure_representation
from vrpo.models.checkpoints import load_milestone, read_network, save_network
from vrpo.models.tokenizer import build_vae, load_tokenizer, vae_arguments
from vrpo.prepare.fitting import fit
from vrpo.prepare.latents import encode_latents
from vrpo.prepare.tokenizer import fit_tokenizer
from vrpo.sampling.generate import sample_images
from vrpo.training.run import train

from tests.fixtures import golden
from tests.fixtures.training import Toy

pytestmark = pytest.mark.usefixtures("one_thread")

FITTED = TokenizerOptions(
    block_channels=[8, 16], latent_channels=4, training=FitOptions(steps=2, batch_size=4)
)
MEAN, STD = [-1.3, 0.2, 0.0, 4.5], [0.5, 2.0, 8.4, 1.0]
PLAIN: dict[str, Any] = {"scaling_factor": 0.5}
SHIFTED = {"scaling_factor": 0.36, "shift_factor": 0.12}
EACH = {"scaling_factor": 1.0, "latents_mean": MEAN, "latents_std": STD}
EACH_SCALED = {**EACH, "scaling_factor": 0.5}


def write_vae(folder: Path, **config: Any) -> Path:
    """A small VAE as diffusers saves it, with `config` in its config.json.

    The values None are left out of it.
    """
    vae = golden.fill(AutoencoderKL(**vae_arguments(FITTED, 16)))
    vae.save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in content.items() if value is not None})
    )
    return folder


def options(folder: Path, **others: Any) -> TokenizerOptions:
    return TokenizerOptions(weights=str(folder), **others)


def pixels(count: int = 3, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def broadcast(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).view(1, 4, 1, 1)


@pytest.mark.parametrize(
    ("config", "scale", "factor"),
    [
        (EACH, None, 1.0),
        (EACH_SCALED, None, 0.5),
        (EACH_SCALED, 3.0, 3.0),
        ({"latents_mean": MEAN, "latents_std": STD}, None, 0.18215),
    ],
    ids=["unit", "factor", "option", "diffusers' default factor"],
)
def test_each_channel_as_diffusers_normalises_it(
    tmp_path: Path, config: dict[str, Any], scale: float | None, factor: float
) -> None:
    tokenizer = load_tokenizer(options(write_vae(tmp_path, **config), scale=scale), None, "cpu")
    vae = AutoencoderKL.from_pretrained(tmp_path)
    images = torch.from_numpy(pixels()).permute(0, 3, 1, 2)
    with torch.no_grad():
        posterior = vae.encode(images.float() / 127.5 - 1).latent_dist
        mean, std = tokenizer.encode(images)
        torch.testing.assert_close(
            mean, (posterior.mean - broadcast(MEAN)) * factor / broadcast(STD)
        )  # Stable Diffusion XL's pipelines
        torch.testing.assert_close(std, posterior.std * factor / broadcast(STD))
        latents = mean + std * golden.draw(1, *mean.shape)
        torch.testing.assert_close(
            tokenizer.decode(latents),
            vae.decode(latents * broadcast(STD) / factor + broadcast(MEAN)).sample,
        )
        torch.testing.assert_close(tokenizer.decode(mean), vae.decode(posterior.mean).sample)
    assert not torch.allclose(mean, posterior.mean * factor, atol=0.1)


@pytest.mark.parametrize(("config", "shift"), [(PLAIN, 0.0), (SHIFTED, 0.12)])
def test_one_shift_and_one_scale(tmp_path: Path, config: dict[str, Any], shift: float) -> None:
    """To the bit what it was before channels could differ."""
    tokenizer = load_tokenizer(options(write_vae(tmp_path, **config)), None, "cpu")
    images, factor = torch.from_numpy(pixels()).permute(0, 3, 1, 2), config["scaling_factor"]
    posterior = tokenizer.vae.encode(images.float() / 127.5 - 1).latent_dist
    mean, std = tokenizer.encode(images)
    assert torch.equal(mean, (posterior.mean - shift) * factor) and torch.equal(
        std, posterior.std * factor
    )
    assert torch.equal(tokenizer.decode(mean), tokenizer.vae.decode(mean / factor + shift).sample)
    assert (tokenizer.scale, tokenizer.shift) == (factor, shift)


def test_statistics_may_have_the_shape_that_they_are_used_in(tmp_path: Path) -> None:
    nested = {
        **EACH,
        "latents_mean": broadcast(MEAN).tolist(),
        "latents_std": broadcast(STD).tolist(),
    }
    tokenizer = load_tokenizer(options(write_vae(tmp_path, **nested)), None, "cpu")
    assert tokenizer.scale == pytest.approx(
        [1 / value for value in STD]
    ) and tokenizer.shift == pytest.approx(MEAN)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**EACH, "latents_std": None}, "has `latents_mean` and no `latents_std`"),
        ({**EACH, "latents_mean": None}, "has `latents_std` and no `latents_mean`"),
        ({**EACH, "shift_factor": 0.1}, "has both `shift_factor` and `latents_mean`"),
        (
            {**EACH, "latents_mean": MEAN[:3]},
            "`latents_mean` of its config has 3 numbers, its latents 4 channels",
        ),
        (
            {**EACH, "latents_std": [*STD, 1.0]},
            "`latents_std` of its config has 5 numbers, its latents 4 channels",
        ),
        (
            {**EACH, "latents_std": [1.0, 0.0, 1.0, 1.0]},
            "`latents_std` is 0.0, not a positive number",
        ),
        (
            {**EACH, "latents_std": [1.0, float("nan"), 1.0, 1.0]},
            "`latents_std` is nan, not a finite number",
        ),
        (
            {**EACH, "latents_mean": [1.0, float("inf"), 1.0, 1.0]},
            "`latents_mean` is inf, not a finite number",
        ),
        (
            {**EACH, "latents_mean": ["a", 1, 1, 1]},
            "`latents_mean` of its config is not a list of numbers",
        ),
        ({"scaling_factor": 0.0}, "`scaling_factor` is 0.0, not a positive number"),
        ({"scaling_factor": -1.0}, "`scaling_factor` is -1.0, not a positive number"),
        ({"scaling_factor": "0.18"}, "`scaling_factor` is 0.18, not a positive number"),
        ({**PLAIN, "shift_factor": float("inf")}, "`shift_factor` is inf, not a finite number"),
        ({"_class_name": "AutoencoderTiny"}, "is a VAE of the class AutoencoderTiny"),
        ({"in_channels": 1}, "could not be loaded|do not fit"),
        ({"use_quant_conv": False}, r"do not fit: quant_conv\.bias is not in the network"),
        ({"block_out_channels": [8, 24]}, "could not be loaded|do not fit"),
        ({"latent_channels": 3}, "could not be loaded|do not fit"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    write_vae(tmp_path, **config)
    with pytest.raises(
        UserError,
        match=rf"^tokenizer\.weights: `{re.escape(str(tmp_path))}`[^\n]*({words})[^\n]*; [^\n]+$",
    ):
        load_tokenizer(options(tmp_path), None, "cpu")


def test_a_null_factor_is_one_beside_statistics_and_asked_for_without(tmp_path: Path) -> None:
    write_vae(tmp_path, **EACH)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"scaling_factor": None}))
    assert load_tokenizer(options(tmp_path), None, "cpu").scale == pytest.approx(
        [1 / value for value in STD]
    )
    (tmp_path / "config.json").write_text(
        json.dumps(content | {"scaling_factor": None, "latents_mean": None, "latents_std": None})
    )
    with pytest.raises(UserError, match=r"no `scaling_factor`; set `tokenizer.scale`"):
        load_tokenizer(options(tmp_path), None, "cpu")
    assert load_tokenizer(options(tmp_path, scale=0.7), None, "cpu").scale == 0.7


@pytest.mark.parametrize("scale", [None, 0, -1.0, "x", float("nan")])
def test_a_trained_tokenizer_without_a_usable_scale_is_refused(tmp_path: Path, scale: Any) -> None:
    arguments = vae_arguments(FITTED, 16)
    save_network(
        tmp_path / "t.safetensors",
        build_vae(arguments).state_dict(),
        {"kind": "tokenizer", "arguments": arguments, "scale": scale},
    )
    with pytest.raises(UserError, match=r"t\.safetensors: [^\n]*`scaling_factor`"):
        load_tokenizer(FITTED, tmp_path / "t.safetensors", "cpu")
    with pytest.raises(ValueError, match="scale"):
        TokenizerOptions(scale=0)


def test_missing_weights_are_not_left_at_their_initial_values(tmp_path: Path) -> None:
    file = write_vae(tmp_path, **PLAIN) / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file(
        {name: value for name, value in state.items() if name != "decoder.conv_in.weight"}, file
    )
    with pytest.raises(
        UserError, match=r"do not fit: decoder\.conv_in\.weight is missing; fetch both again"
    ):
        load_tokenizer(options(tmp_path), None, "cpu")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(
        UserError,
        match=rf"^tokenizer\.weights: `{re.escape(str(tmp_path))}` could not be loaded \([^\n]+$",
    ):
        load_tokenizer(options(tmp_path), None, "cpu")


def test_attention_by_its_earlier_names_is_loaded(tmp_path: Path) -> None:
    """As in the files of Stable Diffusion's VAE."""
    file = write_vae(tmp_path, **PLAIN) / "diffusion_pytorch_model.safetensors"
    state, earlier = (
        load_file(file),
        {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"},
    )
    renamed = {
        re.sub(
            r"(attentions\.\d+)\.(to_q|to_k|to_v|to_out\.0)\.",
            lambda m: f"{m[1]}.{earlier[m[2]]}.",
            name,
        ): value
        for name, value in state.items()
    }
    assert renamed.keys() != state.keys()
    save_file(renamed, file)
    loaded = load_tokenizer(options(tmp_path), None, "cpu").vae.state_dict()
    assert loaded.keys() == state.keys() and all(
        torch.equal(loaded[name], value) for name, value in state.items()
    )


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


def write_images(path: Path, images: np.ndarray) -> None:
    labels = np.arange(len(images)) % 3
    with ArrayWriter(
        path,
        {"images": (images.shape, "uint8"), "labels": (labels.shape, "int64")},
        {"fingerprint": "f", "resolution": images.shape[1], "classes": 10},
    ) as writer:
        writer.write(0, {"images": images, "labels": labels})
        writer.finish()


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
