"""Latents of a pretrained VAE: normalised as its config says, and back when decoded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from vrpo.config.networks import TokenizerOptions
from vrpo.errors import UserError
from vrpo.models.checkpoints import save_network
from vrpo.models.tokenizer import build_vae, load_tokenizer, vae_arguments

from tests.fixtures import golden
from tests.fixtures.vae import (
    EACH,
    EACH_SCALED,
    FITTED,
    MEAN,
    PLAIN,
    SHIFTED,
    STD,
    options,
    pixels,
    write_vae,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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


# ---- latent spaces of others ---------------------------------------------------------------------


def statistics(path: Path, **content: Any) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("layout", ["LightningDiT", "REPA-E"])
def test_a_file_of_statistics_normalises_each_channel(
    tmp_path: Path, layout: str, scale: float | None
) -> None:
    mean, std = torch.tensor(MEAN).view(1, 4, 1, 1), torch.tensor(STD).view(1, 4, 1, 1)
    content = {"mean": mean, "std": std}
    if layout == "REPA-E":
        content = {"latents_bias": mean, "latents_scale": 1 / std}
    file = statistics(tmp_path / "latents_stats.pt", **content)
    folder = write_vae(tmp_path / "vae", **PLAIN)
    tokenizer = load_tokenizer(options(folder, statistics=file, scale=scale), None, "cpu")
    images = torch.from_numpy(pixels()).permute(0, 3, 1, 2)
    with torch.no_grad():
        posterior = tokenizer.vae.encode(images.float() / 127.5 - 1).latent_dist
        latents, _ = tokenizer.encode(images)
        expected = (posterior.mean.double() - mean) / std * (scale or 1)
        torch.testing.assert_close(latents.double(), expected, rtol=1e-6, atol=1e-6)
        back = latents / tokenizer._scale + tokenizer._shift
        torch.testing.assert_close(back, posterior.mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            tokenizer.decode(latents), tokenizer.vae.decode(posterior.mean).sample
        )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"mean": torch.zeros(3), "std": torch.ones(4)}, "`mean` has 3 numbers, .* 4 channels"),
        ({"mean": torch.zeros(4)}, "holds mean, neither `mean` and `std` nor"),
        ({"mean": torch.zeros(4), "std": torch.zeros(4)}, "`std` is 0.0, not a positive number"),
        ({"mean": [0.0] * 4, "std": torch.ones(4)}, "`mean` is no tensor of real numbers"),
        ({"mean": torch.zeros(4), "std": Path("x")}, "objects of type .*, which could run code"),
    ],
)
def test_statistics_that_do_not_fit(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    file = statistics(tmp_path / "stats.pt", **content)
    chosen = options(write_vae(tmp_path / "vae", **PLAIN), statistics=file)
    with pytest.raises(UserError, match=words) as error:
        load_tokenizer(chosen, None, "cpu")
    assert "\n" not in str(error.value)


def test_sixteen_fold_with_32_channels_in_a_subfolder(tmp_path: Path) -> None:
    """The shape of VA-VAE's latents, in the layout of a whole pipeline."""
    made = TokenizerOptions(block_channels=[8] * 5, latent_channels=32)
    vae = golden.fill(AutoencoderKL(**vae_arguments(made, 32), shift_factor=0.1))
    vae.save_pretrained(tmp_path / "vae")
    file = statistics(
        tmp_path / "s.pt", mean=torch.arange(32.0) / 9, std=1 + torch.arange(32.0) / 16
    )
    chosen = TokenizerOptions(weights=str(tmp_path), subfolder="vae", statistics=file)
    tokenizer = load_tokenizer(chosen, None, "cpu")
    images = torch.from_numpy(pixels(1, 32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        latents, _ = tokenizer.encode(images)
        assert latents.shape == (1, 32, 2, 2) and tokenizer.downsampling == 16
        raw = vae.encode(images.float() / 127.5 - 1).latent_dist.mean
        torch.testing.assert_close(tokenizer.decode(latents), vae.decode(raw).sample)
    with pytest.raises(UserError, match="folder `other` could not be loaded"):
        load_tokenizer(chosen.model_copy(update={"subfolder": "other"}), None, "cpu")


@pytest.mark.parametrize("name", ["subfolder", "statistics", "encoded"])
def test_a_trained_tokenizer_has_no_foreign_parts(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is for a pretrained VAE"):
        TokenizerOptions(**{name: "x"})
