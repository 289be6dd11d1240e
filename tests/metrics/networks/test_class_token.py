"""Frechet distance on the class tokens of a vision transformer, from reference to record."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from vrpo.config.networks import NetworkOptions
from vrpo.errors import UserError
from vrpo.metrics.distances.frechet import frechet_distance
from vrpo.metrics.evaluate import evaluate, summary
from vrpo.metrics.networks.class_token import ClassTokenNetwork, resize_positions
from vrpo.metrics.reference import compute_reference
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
    return NetworkOptions(
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
    extractor = ClassTokenNetwork("vit", network_options(folder, image_size=160), "cpu")
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
    extractor = ClassTokenNetwork("vit", network_options(folder), "cpu")
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
    with pytest.raises(UserError, match="gives no class token"):
        ClassTokenNetwork(
            "vit",
            network_options(
                folder,
                architecture="test_convnext.r160_in1k",
                weights=str(write_convnext(tmp_path)),
                image_size=64,
            ),
            "cpu",
        )


def write_convnext(folder):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(timm.create_model("test_convnext").state_dict(), folder / "convnext.safetensors")
    return folder / "convnext.safetensors"
