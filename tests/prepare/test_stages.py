"""Each stage of the preparation on some small images, and stores that are killed in the middle."""

import itertools
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from vrpo.config.networks import CriticOptions, FitOptions, NetworkOptions, TokenizerOptions
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
from vrpo.prepare.fitting import schedule
from vrpo.prepare.images import write_images
from vrpo.prepare.pixels import augment
from vrpo.prepare.tokenizer import fit_tokenizer

from tests.fixtures.prepared import png_options, pngs
from tests.fixtures.stages import Stages

pytestmark = pytest.mark.usefixtures("one_thread")

CRITIC = CriticOptions(
    width=16, depth=1, training=FitOptions(steps=60, batch_size=16, learning_rate=1e-2)
)
COUNT = 60


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
    """Write everything that `folder`/png gives to `out`, which is `folder` itself by default."""
    preparation, out = pngs(folder), out or folder
    preparation.fit(out)
    preparation.encode_latents(out, out / "latents.h5")
    preparation.encode_features(out, out / "features.h5")
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
    write_images(png_options(folder, workers=2), tmp_path / "images.h5")
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
        write_images(png_options(tmp_path, workers=workers), tmp_path / "images.h5")
    assert not (tmp_path / "images.h5").exists()


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
    encoder = load_encoder(pngs(folder).encoder, folder / "encoder.safetensors", "cpu")
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


# ---- stores that are killed ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def stages():
    with Stages() as running:
        yield running


def test_killed_stores_end_in_the_same_bytes(folder, tmp_path, stages):
    """SIGKILL at several writes (half of the bytes written) and just before the rename.

    Then each stage runs to the end.
    """
    for name in ("images", "latents", "features"):
        output = tmp_path / f"{name}.h5"
        writes = (1, 2, 2, 2) if name == "images" else (1, 3, 8, 5)
        for moment, count in [*(("within-a-write", write) for write in writes), ("unnamed", 1)]:
            killed = stages.run("pngs", name, folder, output, moment, count)
            assert killed == signal.SIGKILL, (name, moment, count)
            assert not output.exists()
        assert stages.run("pngs", name, folder, output) == 0
        assert output.read_bytes() == (folder / output.name).read_bytes()
        assert stamp_path(output).is_file()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "features.h5",
        "images.h5",
        "latents.h5",
    ]
