"""Each stage of the preparation on some small images, and stores that are killed in the middle."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vrpo
from vrpo.config.data import DataOptions
from vrpo.config.networks import (
    CriticOptions,
    EncoderOptions,
    FitOptions,
    NetworkOptions,
    TokenizerOptions,
)
from vrpo.data.arrays import Arrays
from vrpo.data.batches import TrainingData
from vrpo.data.checksums import stamp_path
from vrpo.errors import UserError
from vrpo.models.checkpoints import read_network
from vrpo.models.critic import load_critic
from vrpo.models.encoder import load_encoder
from vrpo.models.tokenizer import load_tokenizer
from vrpo.prepare.classifier import fit_classifier
from vrpo.prepare.critic import fit_critic
from vrpo.prepare.features import encode_features
from vrpo.prepare.fitting import schedule
from vrpo.prepare.images import write_images
from vrpo.prepare.latents import encode_latents
from vrpo.prepare.pixels import augment
from vrpo.prepare.tokenizer import fit_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENIZER = TokenizerOptions(
    block_channels=[8, 8, 8], batch_size=7, training=FitOptions(steps=3, batch_size=4)
)
ENCODER = EncoderOptions(
    architecture="test_vit",
    weights="trained",
    arguments={"patch_size": 4, "embed_dim": 32, "depth": 2},
    image_size=16,
    batch_size=7,
    training=FitOptions(steps=3, batch_size=8),
)
CRITIC = CriticOptions(
    width=16, depth=1, training=FitOptions(steps=60, batch_size=16, learning_rate=1e-2)
)
COUNT = 60


def images_options(folder):
    return DataOptions(source="folder", root=str(folder / "png"), resolution=16, num_classes=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, one_thread):
    """Two classes of 30 small images, bright above or below, and every file made from them."""
    folder = tmp_path_factory.mktemp("prepared")
    random = np.random.default_rng(0)
    for index in range(COUNT):
        pixels = random.integers(0, 100, (16, 16, 3), dtype=np.uint8)
        label = index % 2
        pixels[8 * label : 8 * label + 8] += 120
        path = folder / "png" / f"class{label}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    prepare(folder)
    return folder


def prepare(folder, out=None):
    out = out or folder
    write_images(images_options(folder), out / "images.h5")
    fit_tokenizer(TOKENIZER, out / "images.h5", out / "tokenizer.safetensors", "cpu")
    fit_classifier(ENCODER, out / "images.h5", out / "encoder.safetensors", "cpu")
    encode_latents(
        TOKENIZER, out / "images.h5", out / "tokenizer.safetensors", out / "latents.h5", "cpu"
    )
    encode_features(
        ENCODER, "vit", out / "images.h5", out / "encoder.safetensors", out / "features.h5", "cpu"
    )
    fit_critic(CRITIC, out / "latents.h5", out / "features.h5", out / "critic.safetensors", "cpu")


def test_images(folder):
    images = Arrays(folder / "images.h5")
    assert (
        images["images"].shape == (COUNT, 16, 16, 3)
        and images["labels"].tolist() == [0] * 30 + [1] * 30
    )
    assert (
        images.attributes["count"] == COUNT
        and images.attributes["classes"] == 2
        and images.attributes["resolution"] == 16
    )
    first = np.asarray(Image.open(folder / "png" / "class0" / "0.png"))
    np.testing.assert_array_equal(images["images"][0], first)


def test_images_by_worker_processes(folder, tmp_path):
    write_images(images_options(folder).model_copy(update={"workers": 2}), tmp_path / "images.h5")
    assert (tmp_path / "images.h5").read_bytes() == (folder / "images.h5").read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_ends_the_stage(tmp_path, workers):
    for label in (0, 1):
        (tmp_path / "png" / str(label)).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "png" / str(label) / "a.png")
    (tmp_path / "png" / "1" / "a.png").write_bytes(b"no image")
    with pytest.raises(
        UserError,
        match=(
            r"images\.unreadable\.json: lists 1 of 2 images that cannot be read, first "
            r".*1/a\.png \(cannot identify"
        ),
    ):
        write_images(
            images_options(tmp_path).model_copy(update={"workers": workers}), tmp_path / "images.h5"
        )
    assert not (tmp_path / "images.h5").exists()


def test_everything_again_gives_the_same_bytes(folder, tmp_path):
    prepare(folder, tmp_path)
    for path in sorted(path for path in tmp_path.iterdir() if path.suffix != ".verified"):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_latents(folder):
    images, latents = Arrays(folder / "images.h5"), Arrays(folder / "latents.h5")
    tokenizer = load_tokenizer(TOKENIZER, folder / "tokenizer.safetensors", "cpu")
    pixels = torch.from_numpy(images["images"][:7].copy()).permute(0, 3, 1, 2).contiguous()
    mean, std = tokenizer.encode(pixels)
    np.testing.assert_array_equal(latents["mean"][:7], mean.numpy())
    np.testing.assert_array_equal(latents["std"][:7], std.numpy())
    np.testing.assert_array_equal(latents["labels"], images["labels"])
    assert latents["mean"].shape == (COUNT, 4, 4, 4)
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
    encoder = load_encoder(ENCODER, folder / "encoder.safetensors", "cpu")
    tokens = encoder.tokens(
        torch.from_numpy(images["images"][:7].copy()).permute(0, 3, 1, 2).contiguous()
    )
    assert (
        features["tokens"].shape == (COUNT, 16, 32)
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
    encode_features(
        ENCODER.model_copy(update={"storage": "float16"}),
        "vit",
        folder / "images.h5",
        folder / "encoder.safetensors",
        tmp_path / "half.h5",
        "cpu",
    )
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
    batch = data.gather(np.arange(0, COUNT, 10))
    cosine = (
        torch.nn.functional.cosine_similarity(critic(batch.mean), batch.tokens["vit"], dim=-1)
        .mean()
        .item()
    )
    assert cosine == pytest.approx(critic.description["cosine"], abs=0.1)


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
        fitted = TOKENIZER.model_copy(
            update={"training": FitOptions(steps=steps, batch_size=8, learning_rate=4e-3)}
        )
        fit_tokenizer(fitted, folder / "images.h5", tmp_path / "vae.safetensors", "cpu")
        return read_network(tmp_path / "vae.safetensors")[1]["psnr"]

    assert psnr(40) > psnr(1) + 5


def test_fit_stops_at_a_loss_that_is_not_finite(folder, tmp_path):
    options = ENCODER.model_copy(
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


# ---- stores that are killed ----------------------------------------------------------------------


def test_killed_stores_end_in_the_same_bytes(folder, tmp_path):
    """SIGKILL at several writes (half of the bytes written) and just before the rename.

    Then each stage runs to the end.
    """
    command = [sys.executable, __file__, str(folder), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(vrpo.__file__).parents[1])}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr
    for name in ("images.h5", "latents.h5", "features.h5"):
        assert finished.stdout.count(f"{name} killed") == 5
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
        assert stamp_path(tmp_path / name).is_file()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "features.h5",
        "images.h5",
        "latents.h5",
    ]


def _make(name, folder, out):
    if name == "images.h5":
        write_images(images_options(folder), out / name)
    elif name == "latents.h5":
        encode_latents(
            TOKENIZER, folder / "images.h5", folder / "tokenizer.safetensors", out / name, "cpu"
        )
    else:
        encode_features(
            ENCODER, "vit", folder / "images.h5", folder / "encoder.safetensors", out / name, "cpu"
        )


def _make_and_die(name, folder, out, kill_at):
    from vrpo.data import arrays

    calls, pwrite = 0, os.pwrite

    def killing_pwrite(file, data, offset):
        nonlocal calls
        calls += 1
        if calls == kill_at:
            pwrite(file, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return pwrite(file, data, offset)

    os.pwrite = killing_pwrite
    if kill_at is None:
        arrays.commit = lambda path: os.kill(os.getpid(), signal.SIGKILL)
    _make(name, folder, out)


def _main(folder, out):
    import diffusers.models  # once, not in every child

    assert diffusers.models.AutoencoderKL
    torch.set_num_threads(1)  # children of a process with several compute threads hang
    for name in ("images.h5", "latents.h5", "features.h5"):
        for kill_at in (1, 2, 2, 2, None) if name == "images.h5" else (1, 3, 8, 5, None):
            child = os.fork()
            if child == 0:
                _make_and_die(name, folder, out, kill_at)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if (
                os.WIFSIGNALED(status)
                and os.WTERMSIG(status) == signal.SIGKILL
                and not (out / name).exists()
            ):
                print(name, "killed", flush=True)
        _make(name, folder, out)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
