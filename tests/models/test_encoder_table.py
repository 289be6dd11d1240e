"""Every encoder of the table with random weights: shape, preprocessing, grid.

Position embeddings against REPA's resampling.
"""

from __future__ import annotations

import math

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from vrpo.config.networks import EncoderOptions
from vrpo.data.arrays import ArrayWriter
from vrpo.errors import UserError
from vrpo.models.encoder import VisualEncoder, load_encoder, patch_tokens
from vrpo.models.encoder_table import ENCODERS, GRID, write_encoder_docs
from vrpo.models.timm_networks import create_network, normalisation
from vrpo.report.cost import encoder_tokens
from vrpo.training.run import train

from tests.fixtures import ROOT
from tests.fixtures.training import Toy

IDS = [encoder.name for encoder in ENCODERS]
SMALL = {"depth": 1, "embed_dim": 48, "num_heads": 2}


@pytest.mark.parametrize("encoder", ENCODERS, ids=IDS)
def test_shapes_are_those_of_the_table(encoder) -> None:
    """The whole network, on the meta device: shapes without numbers."""
    options = EncoderOptions(**encoder.options())
    with torch.device("meta"):
        network = create_network(options, 0).eval()
        tokens = patch_tokens(network, torch.empty(2, 3, options.image_size, options.image_size))
    assert tokens.shape == (2, GRID**2, encoder.width)
    assert network.num_prefix_tokens == encoder.prefix
    assert encoder_tokens(options) == (GRID**2, encoder.width, len(network.blocks))
    assert network.patch_embed.patch_size == (encoder.patch, encoder.patch)
    assert normalisation(network) == encoder.normalisation


@pytest.mark.parametrize("encoder", ENCODERS, ids=IDS)
def test_a_thin_one_runs_from_images_to_tokens(encoder) -> None:
    """One narrow block of each, with numbers.

    Resized and normalised as its own training was, and after a norm.
    """
    network = create_network(EncoderOptions(**encoder.options(), arguments=SMALL), 0).eval()
    images = torch.randint(
        0, 256, (1, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    visual = VisualEncoder(network, encoder.image_size)
    with torch.no_grad():
        tokens = visual.tokens(images)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in encoder.normalisation)
        size = (encoder.image_size, encoder.image_size)
        expected = (
            (F.interpolate(images / 255, size, mode="bicubic", antialias=True) - mean) / std
            if size != (256, 256)
            else (images / 255 - mean) / std
        )
    torch.testing.assert_close(visual.input(images), expected, rtol=0, atol=1e-6)
    assert tokens.shape == (1, 256, 48)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(1, 256), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.std(-1, correction=0), torch.ones(1, 256), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    "architecture", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"]
)
def test_position_embeddings_are_resampled_as_by_repa(tmp_path, architecture: str) -> None:
    """From 37 x 37 to 16 x 16, bicubic and antialiased.

    REPA calls timm's `resample_abs_pos_embed(positions, [16, 16])`.
    """
    original = timm.create_model(architecture, num_classes=0, **SMALL)  # for images of 518 pixels
    nn.init.normal_(original.pos_embed)
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in original.state_dict().items()}, path)
    options = EncoderOptions(
        architecture=f"{architecture}.lvd142m", weights=str(path), arguments=SMALL, image_size=224
    )
    loaded = load_encoder(options, None, "cpu").network.pos_embed
    prefix = original.pos_embed.shape[1] - 37**2
    by_repa = timm.layers.resample_abs_pos_embed(
        original.pos_embed.detach(), [16, 16], num_prefix_tokens=prefix
    )
    torch.testing.assert_close(loaded, by_repa, rtol=0, atol=0)
    grid = original.pos_embed.detach()[:, prefix:].transpose(1, 2).unflatten(2, (37, 37))
    plain = F.interpolate(grid, (16, 16), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(loaded[:, prefix:], plain, rtol=0, atol=1e-6)


def test_tokens_pass_the_norm_of_a_network_that_pools_first() -> None:
    network = create_network(
        EncoderOptions(
            architecture="vit_tiny_patch16_224",
            arguments={"global_pool": "avg", **SMALL},
            image_size=32,
        ),
        0,
    ).eval()
    assert isinstance(network.norm, nn.Identity) and isinstance(network.fc_norm, nn.LayerNorm)
    nn.init.normal_(network.fc_norm.weight)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            patch_tokens(network, x), network.fc_norm(network.forward_features(x))[:, 1:]
        )


def test_a_grid_that_does_not_fit_names_the_size_that_would(tmp_path) -> None:
    toy = Toy(tmp_path)
    with ArrayWriter(
        tmp_path / "large.h5",
        {"tokens": ((50, 9, 8), "float16")},
        {"images": "toy", "image_size": 42},
    ) as writer:
        writer.write(0, {"tokens": torch.zeros(50, 9, 8).half().numpy()})
        writer.finish()
    config = toy.config("repa")
    with pytest.raises(
        UserError,
        match=(
            r"gives 9 tokens an image, .* has 2x2; set encoders.toy.image_size to 28, 2 "
            r"of its patches"
        ),
    ):
        train(
            config,
            latents=toy.latents,
            features={"toy": tmp_path / "large.h5"},
            critics={},
            milestone=1,
            output=tmp_path / "r" / "a.safetensors",
            device="cpu",
        )
    assert math.isqrt(9) * 14 == 42


def test_the_docs_show_the_table(tmp_path) -> None:
    assert write_encoder_docs(tmp_path)
    text = (tmp_path / "encoders.md").read_text(encoding="utf-8")
    assert (ROOT / "docs/encoders.md").read_text(encoding="utf-8") == text, (
        "the table changed: run `make docs`"
    )
    assert all(f"`{encoder.architecture}`" in text for encoder in ENCODERS)
