"""Targets of guidance: mean tokens of classes, and tokens of one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vrpo.config.data import DataOptions
from vrpo.data.arrays import Arrays
from vrpo.errors import UserError
from vrpo.models.checkpoints import read_network, save_network
from vrpo.models.encoder import load_encoder
from vrpo.models.timm_networks import create_network
from vrpo.prepare import targets
from vrpo.prepare.targets import class_tokens, image_tokens

from tests.fixtures.prepared import DIGITS
from tests.fixtures.training import Toy


def test_mean_tokens_equal_a_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, data = Toy(tmp_path), DataOptions(source="digits", num_classes=3)
    output = tmp_path / "classes.safetensors"
    class_tokens(data, "toy", toy.latents, toy.features, output, "cpu")
    state, description = read_network(output)
    assert (description["kind"], description["encoder"]) == ("targets", "toy")
    labels, tokens = Arrays(toy.latents)["labels"], np.array(Arrays(toy.features)["tokens"])
    for label in range(3):
        own = [each for each, found in zip(tokens, labels, strict=True) if found == label]
        wanted = np.mean(own, axis=0, dtype=np.float64)
        assert np.allclose(state["tokens"][label], wanted, rtol=1e-6)
    monkeypatch.setattr(targets, "BATCH", 7)
    class_tokens(data, "toy", toy.latents, toy.features, tmp_path / "again.safetensors", "cpu")
    assert output.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    toy, data = Toy(tmp_path), DataOptions(source="digits", num_classes=4)
    with pytest.raises(UserError, match="class 3 has no image, so no mean tokens; leave"):
        class_tokens(data, "toy", toy.latents, toy.features, tmp_path / "a.safetensors", "cpu")
    assert not (tmp_path / "a.safetensors").exists()


def write_encoder(path: Path) -> None:
    network = create_network(DIGITS.encoder, 10)
    names = ("architecture", "arguments", "image_size")
    description = {name: getattr(DIGITS.encoder, name) for name in names}
    description |= {"kind": "classifier", "num_classes": 10}
    save_network(path, network.state_dict(), description)


def test_tokens_of_an_image(tmp_path: Path) -> None:
    weights, output = tmp_path / "encoder.safetensors", tmp_path / "image.safetensors"
    write_encoder(weights)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image_tokens(DIGITS.encoder, "vit", DIGITS.data, tmp_path / "a.png", weights, output, "cpu")
    encoder = load_encoder(DIGITS.encoder, weights, "cpu")
    wanted = encoder.tokens(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert torch.equal(read_network(output)[0]["tokens"], wanted)


@pytest.mark.parametrize(("size", "said"), [((17, 17), "17x17"), ((16, 12), "16x12")])
def test_an_image_of_another_size_is_refused(
    tmp_path: Path, size: tuple[int, int], said: str
) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"a.png: .* has {said} pixels, .* 16x16; crop and resize"):
        arguments = DIGITS.encoder, "vit", DIGITS.data, tmp_path / "a.png", None
        image_tokens(*arguments, tmp_path / "out.safetensors", "cpu")
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(UserError, match=r"b.png: .* cannot be read as an image"):
        arguments = DIGITS.encoder, "vit", DIGITS.data, tmp_path / "b.png", None
        image_tokens(*arguments, tmp_path / "out.safetensors", "cpu")
