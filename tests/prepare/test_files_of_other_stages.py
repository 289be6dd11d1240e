"""Whole files of other stages: refused in one line by each stage that reads them."""

import numpy as np
import pytest

from vrpo.config.data import DataOptions
from vrpo.config.networks import EncoderOptions, FitOptions, TokenizerOptions
from vrpo.data.batches import TrainingData
from vrpo.data.kinds import SAMPLES
from vrpo.data.shards import open_arrays
from vrpo.errors import UserError
from vrpo.metrics.inputs import open_images
from vrpo.models.online import describe_features
from vrpo.prepare.classifier import fit_classifier
from vrpo.prepare.features import encode_features
from vrpo.prepare.latents import encode_latents
from vrpo.prepare.manifest import write_manifest
from vrpo.prepare.tokenizer import fit_tokenizer

from tests.fixtures.hdf5 import CONTENT, MOMENTS, PICTURES, TOKENS, N, write, write_all


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("whole"))


def changed(kind, drop=(), attributes=None, **arrays):
    """Content of a file with some arrays replaced or without some arrays and attributes."""
    kept, described = CONTENT[kind]
    kept = {name: values for name, values in {**kept, **arrays}.items() if name not in drop}
    return kept, {
        name: value
        for name, value in {**described, **(attributes or {})}.items()
        if name not in drop
    }


WRONG_IMAGES = {
    "latents": changed("latents"),
    "samples": changed("samples"),
    "no labels": changed("images", ["labels"]),
    "no images": changed("images", ["images"]),
    "float images": changed("images", images=PICTURES["images"].astype(np.float32)),
    "images of one channel": changed("images", images=PICTURES["images"][..., :1].copy()),
    "images without channels": changed("images", images=PICTURES["images"][..., 0].copy()),
    "images that are no squares": changed("images", images=PICTURES["images"][:, :4].copy()),
    "float labels": changed("images", labels=PICTURES["labels"].astype(np.float32)),
    "labels of two axes": changed("images", labels=np.zeros((N, 2), np.int64)),
    "big-endian labels": changed("images", labels=PICTURES["labels"].astype(">i8")),
    "no fingerprint": changed("images", ["fingerprint"]),
    "no resolution": changed("images", ["resolution"]),
    "no classes": changed("images", ["classes"]),
}
FIT = FitOptions(steps=1, batch_size=2)
TOKENIZER = TokenizerOptions(block_channels=[8, 8], batch_size=4, training=FIT)
ENCODER = EncoderOptions(
    architecture="test_vit",
    weights="trained",
    arguments={"patch_size": 4, "embed_dim": 32, "depth": 1},
    image_size=8,
    training=FIT,
)
READERS_OF_IMAGES = {
    "fit_tokenizer": lambda path, folder: fit_tokenizer(TOKENIZER, path, folder / "out", "cpu"),
    "fit_classifier": lambda path, folder: fit_classifier(ENCODER, path, folder / "out", "cpu"),
    "encode_latents": lambda path, folder: encode_latents(
        TOKENIZER, path, folder / "none", folder / "out", "cpu"
    ),
    "encode_features": lambda path, folder: encode_features(
        ENCODER, "vit", path, folder / "none", folder / "out", "cpu"
    ),
    "describe_features": lambda path, folder: describe_features(
        folder / "out", path, None, {}, None, {}
    ),
    "manifest": lambda path, folder: write_manifest(
        DataOptions(resolution=8), path, folder / "out"
    ),
}


@pytest.mark.parametrize("content", WRONG_IMAGES)
@pytest.mark.parametrize("reader", READERS_OF_IMAGES)
def test_stages_refuse_what_are_no_images(reader, content, tmp_path):
    path = write(tmp_path / "x.h5", *WRONG_IMAGES[content])
    with pytest.raises(
        UserError, match=r"x\.h5: (holds no array|its array|its `images` are|has no attribute)"
    ) as error:
        READERS_OF_IMAGES[reader](path, tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


WRONG_LATENTS = {
    "images": changed("images"),
    "features": changed("features"),
    "no std": changed("latents", ["std"]),
    "no labels": changed("latents", ["labels"]),
    "double means": changed("latents", mean=MOMENTS["mean"].astype(np.float64)),
    "integer means": changed(
        "latents", mean=MOMENTS["mean"].astype(np.int32), std=MOMENTS["std"].astype(np.int32)
    ),
    "flat means": changed("latents", mean=MOMENTS["mean"].reshape(N, -1)),
    "another std": changed("latents", std=MOMENTS["std"][:, :2].copy()),
    "no images": changed("latents", ["images"]),
}


@pytest.mark.parametrize("content", WRONG_LATENTS)
def test_the_training_refuses_what_are_no_latents(content, whole, tmp_path):
    path = write(tmp_path / "x.h5", *WRONG_LATENTS[content])
    with pytest.raises(UserError, match=r"x\.h5: (holds no array|its array|has no attribute)"):
        TrainingData(path, {"vit": whole / "features.h5"})


WRONG_FEATURES = {
    "latents": changed("latents"),
    "no tokens": changed("features", ["tokens"]),
    "no scale": changed("features", ["scale"]),
    "a flat scale": changed("features", scale=np.ones((N, 1), np.float16)),
    "a float32 scale": changed("features", scale=np.ones((N, 4), np.float32)),
    "flat tokens": changed("features", tokens=TOKENS["tokens"].reshape(N, -1)),
    "tokens of another storage": changed("features", tokens=TOKENS["tokens"].view(np.uint8)),
    "an unknown storage": changed("features", attributes={"storage": "int4"}),
    "bits without storage": changed(
        "features", ["storage"], tokens=TOKENS["tokens"].view(np.uint8)
    ),
    "no images": changed("features", ["images"]),
}


@pytest.mark.parametrize("content", WRONG_FEATURES)
def test_the_training_refuses_what_are_no_features(content, whole, tmp_path):
    assert TrainingData(whole / "latents.h5", {"vit": whole / "features.h5"}).count == N
    path = write(tmp_path / "x.h5", *WRONG_FEATURES[content])
    with pytest.raises(
        UserError, match=r"x\.h5: (holds no array|its array|has no attribute|stored as)"
    ):
        TrainingData(whole / "latents.h5", {"vit": path})


@pytest.mark.parametrize(
    "content",
    [name for name in WRONG_IMAGES if not name.startswith(("samples", "no f", "no r", "no c"))],
)
def test_what_are_no_samples_is_refused(content, tmp_path):
    path = write(tmp_path / "x.h5", *WRONG_IMAGES[content])
    with pytest.raises(UserError, match=r"x\.h5: (holds no array|its array|its `images` are)"):
        open_arrays(path, SAMPLES)
    if "labels" not in content:
        with pytest.raises(UserError, match=r"x\.h5: "):
            open_images(path)
