"""Frechet distance on the class tokens of a vision transformer, from reference to record."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from vrpo.config.networks import SpaceOptions
from vrpo.errors import UserError
from vrpo.metrics.compute_reference import compute_reference
from vrpo.metrics.distances.frechet import frechet_distance
from vrpo.metrics.evaluate import evaluate, summary
from vrpo.metrics.networks.pretrained import PretrainedNetwork, resize_positions
from vrpo.metrics.statistics import gaussian_of

from tests.fixtures.metrics import (
    ATTRIBUTES,
    OPTIONS,
    make_images,
    write_h5,
    write_reference,
)

ARCHITECTURE = "test_vit.r160_in1k"  # patches of 16, made for images of 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(ARCHITECTURE)
        network.pos_embed.data.normal_()
    save_file(network.state_dict(), folder / "vit.safetensors")
    write_reference(folder, 120, options(folder))
    write_h5(folder / "samples.h5", make_images(110, seed=5) // 2, ATTRIBUTES)
    return folder


def network_options(folder, **others):
    return SpaceOptions(
        **{
            "architecture": ARCHITECTURE,
            "weights": str(folder / "vit.safetensors"),
            "image_size": 64,
            **others,
        }
    )


def options(folder, **others):
    return OPTIONS.model_copy(update={"extra_networks": {"vit": network_options(folder, **others)}})


def score(folder, chosen, reference="reference.npz"):
    return evaluate(
        chosen,
        folder / "samples.h5",
        folder / reference,
        folder / "classifier.safetensors",
        None,
        "cpu",
    )


def test_at_its_own_size_it_is_timms_network(folder):
    extractor = PretrainedNetwork("vit", network_options(folder, image_size=160), "cpu")
    network = timm.create_model(
        ARCHITECTURE,
        num_classes=0,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(folder / "vit.safetensors")},
    ).eval()
    images = torch.from_numpy(make_images(4, side=160)).permute(0, 3, 1, 2)
    mean, std = (
        torch.tensor(network.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std")
    )
    with torch.no_grad():
        expected = network((images / 255 - mean) / std)
    torch.testing.assert_close(extractor.features(images).pool, expected, rtol=1e-4, atol=1e-5)


def test_positions_are_resampled_with_the_official_scale():
    """A plane that rises by one a patch.

    DINOv2 samples it at (i + 1/2) / scale - 1/2 with scale = (new + 0.1) / old, and keeps the class
    token's position.
    """
    network = timm.create_model(ARCHITECTURE)
    plane = (
        torch.arange(10.0).repeat(10, 1).reshape(1, 100, 1).expand(-1, -1, network.embed_dim)
    )  # (1, 10 * 10, D), rises with the column
    network.pos_embed.data = torch.cat([torch.full((1, 1, network.embed_dim), -3.0), plane], 1)
    resize_positions(network, 96)
    assert network.pos_embed.shape[1] == 1 + 6 * 6
    assert (network.pos_embed[0, 0] == -3).all()
    columns = network.pos_embed[0, 1:, 0].reshape(6, 6)[
        2, 1:-1
    ]  # bicubic keeps a slope up to 0.05; a scale of 6 / 10 would be off by 0.12
    expected = (torch.arange(1, 5) + 0.5) * 10 / 6.1 - 0.5
    torch.testing.assert_close(columns, expected, rtol=0, atol=0.06)


def test_distance_in_the_record(folder):
    record = score(folder, options(folder))
    extractor = PretrainedNetwork("vit", network_options(folder), "cpu")
    real, made = (
        extractor.features(torch.from_numpy(images).permute(0, 3, 1, 2)).pool
        for images in (make_images(120), make_images(110, seed=5) // 2)
    )
    assert record["scores"]["fd_vit"] == pytest.approx(
        frechet_distance(gaussian_of(real), gaussian_of(made)), rel=1e-3
    )
    assert record["protocol"]["extra_networks"]["vit"] | {"sha256": ""} == {
        "architecture": ARCHITECTURE, "arguments": {}, "image_size": 64, "sha256": "", "dim": 64,
    }  # fmt: skip
    assert "FD-vit" in summary(record)
    assert score(folder, options(folder), "images.h5")["scores"] == record["scores"]
    json.dumps(record, allow_nan=False)


def test_what_does_not_fit(folder, tmp_path):
    with pytest.raises(UserError, match="compute the reference again"):
        score(folder, options(folder, image_size=96))
    compute_reference(
        OPTIONS,
        folder / "images.h5",
        folder / "classifier.safetensors",
        folder / "plain.npz",
        "cpu",
    )
    record = score(folder, options(folder), "plain.npz")
    assert record["scores"]["fd_vit"] is None
    assert any(
        "fd_vit: not given, the reference has no statistics" in warning
        for warning in record["protocol"]["warnings"]
    )
    with pytest.raises(UserError, match="has no class token and no attention pooling"):
        network(folder, architecture="test_vit4.r160_in1k", weights=drawn(tmp_path, "test_vit4"))


def test_pooling_without_a_class_token(tmp_path):
    """The mean over a feature map (before any norm of the head), and attention pooling."""
    images = torch.from_numpy(make_images(3, side=32)).permute(0, 3, 1, 2)
    weights = drawn(tmp_path, "test_convnext")
    extractor = network(tmp_path, architecture="test_convnext.r160_in1k", weights=weights)
    plain = timm.create_model("test_convnext", num_classes=0).eval()
    plain.load_state_dict(load_file(weights), strict=False)
    feature_map = plain.forward_features(extractor._input(images))
    expected = feature_map.double().sum((2, 3)) / feature_map[0, 0].numel()
    torch.testing.assert_close(extractor.features(images).pool.double(), expected.detach())
    weights = drawn(tmp_path, "test_vit3")
    extractor = network(tmp_path, architecture="test_vit3.r160_in1k", weights=weights)
    assert extractor.features(images).pool.shape == (3, 96)


def test_embeddings_are_projected_and_of_length_one(folder):
    images = torch.from_numpy(make_images(3, side=160)).permute(0, 3, 1, 2)
    embedded = network(folder, image_size=160, features="embedding")
    pooled = network(folder, image_size=160).features(images).pool.double()
    head = load_file(folder / "vit.safetensors")
    projected = pooled @ head["head.weight"].double().T + head["head.bias"].double()
    expected = projected / projected.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(embedded.features(images).pool.double(), expected, rtol=0, atol=1e-6)
    assert embedded.describe()["features"] == "embedding"
    with pytest.raises(UserError, match="no projection that makes embeddings"):
        state = {k: v for k, v in head.items() if not k.startswith("head.")}
        save_file(state, folder / "headless.safetensors")
        weights = str(folder / "headless.safetensors")
        network(folder, weights=weights, features="embedding")


def network(folder, **others):
    return PretrainedNetwork("vit", network_options(folder, **others), "cpu")


def drawn(folder, architecture):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = timm.create_model(architecture).state_dict()
    save_file(state, folder / f"{architecture}.safetensors")
    return str(folder / f"{architecture}.safetensors")
