"""Each stage of the preparation on some small images."""

import numpy as np
import pytest
import torch
from PIL import Image

from vrpo.data.arrays import Arrays
from vrpo.data.batches import TrainingData
from vrpo.models.critic import load_critic
from vrpo.models.encoder import load_encoder
from vrpo.models.tokenizer import load_tokenizer
from vrpo.prepare.images import write_images

from tests.fixtures.prepared import PNG_COUNT, png_options, pngs, prepare

pytestmark = pytest.mark.usefixtures("one_thread")


def test_images(folder):
    images = Arrays(folder / "images.h5")
    assert (
        images["images"].shape == (PNG_COUNT, 16, 16, 3)
        and images["labels"].tolist() == [0] * 30 + [1] * 30
    )
    assert (
        images.attributes["count"] == PNG_COUNT
        and images.attributes["classes"] == 2
        and images.attributes["resolution"] == 16
    )
    first = np.asarray(Image.open(folder / "png" / "class0" / "0.png"))
    np.testing.assert_array_equal(images["images"][0], first)


def test_images_by_worker_processes(folder, tmp_path):
    write_images(png_options(folder, workers=2), tmp_path / "images.h5")
    assert (tmp_path / "images.h5").read_bytes() == (folder / "images.h5").read_bytes()


def test_everything_again_gives_the_same_bytes(folder, tmp_path):
    prepare(folder, tmp_path)
    for path in sorted(path for path in tmp_path.iterdir() if path.suffix != ".verified"):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_latents(folder):
    images, latents = Arrays(folder / "images.h5"), Arrays(folder / "latents.h5")
    tokenizer = load_tokenizer(pngs(folder).tokenizer, folder / "tokenizer.safetensors", "cpu")
    pixels = torch.from_numpy(images["images"][:7].copy()).permute(0, 3, 1, 2).contiguous()
    mean, std = tokenizer.encode(pixels)
    np.testing.assert_array_equal(latents["mean"][:7], mean.numpy())
    np.testing.assert_array_equal(latents["std"][:7], std.numpy())
    np.testing.assert_array_equal(latents["labels"], images["labels"])
    assert latents["mean"].shape == (PNG_COUNT, 4, 4, 4)
    assert latents.attributes["images"] == images.attributes["fingerprint"]
    assert (
        latents.attributes["sha256"] == tokenizer.sha256
        and latents.attributes["scale"] == tokenizer.scale
    )


def test_scaled_latents_have_unit_variance(folder):
    latents = Arrays(folder / "latents.h5")
    noise = np.random.default_rng(0).normal(size=latents["mean"].shape)
    assert (latents["mean"] + latents["std"] * noise).std() == pytest.approx(1, abs=0.02)


def test_features(folder, tmp_path):
    images, features = Arrays(folder / "images.h5"), Arrays(folder / "features.h5")
    encoder = load_encoder(pngs(folder).encoder, folder / "encoder.safetensors", "cpu")
    tokens = encoder.tokens(
        torch.from_numpy(images["images"][:7].copy()).permute(0, 3, 1, 2).contiguous()
    )
    assert (
        features["tokens"].shape == (PNG_COUNT, 16, 32)
        and features["tokens"].dtype == np.int8
        and features["scale"].dtype == np.float16
    )
    cached = (
        TrainingData(folder / "latents.h5", {"vit": folder / "features.h5"})
        .gather(np.arange(7))
        .tokens["vit"]
    )
    cosine = torch.nn.functional.cosine_similarity(cached, tokens, dim=-1)
    error = features.attributes["error"]
    assert 1 - cosine.min() <= error["worst"] + 1e-6 and error["mean"] < error["worst"] < 1e-3
    assert (
        features.attributes["encoder"] == "vit"
        and features.attributes["sha256"] == encoder.sha256
        and features.attributes["image_size"] == 16
    )
    pngs(folder).encode_features(folder, tmp_path / "half.h5", storage="float16")
    half = Arrays(tmp_path / "half.h5")
    assert "scale" not in half and half.attributes["error"]["worst"] < 1e-6
    np.testing.assert_array_equal(half["tokens"][:7], tokens.half().numpy())


def test_critic_follows_the_encoder(folder):
    critic = load_critic(folder / "critic.safetensors", "cpu")
    data = TrainingData(folder / "latents.h5", {"vit": folder / "features.h5"})
    assert critic.latent_shape == (4, 4, 4) and critic.tokens == (16, 32)
    assert (
        critic.description["latents"] == data.latents.fingerprint
        and critic.description["features"] == data.features["vit"].fingerprint
    )
    assert critic.description["cosine"] > 0.4
    batch = data.gather(np.arange(0, PNG_COUNT, 10))
    cosine = (
        torch.nn.functional.cosine_similarity(critic(batch.mean), batch.tokens["vit"], dim=-1)
        .mean()
        .item()
    )
    assert cosine == pytest.approx(critic.description["cosine"], abs=0.1)
