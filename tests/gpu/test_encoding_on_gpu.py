"""Encoding stages and computed features on a GPU against the CPU."""

import numpy as np
import pytest
import torch

from vrpo.config.data import DataOptions
from vrpo.config.networks import EncoderOptions, FitOptions, TokenizerOptions
from vrpo.data.batches import TrainingData
from vrpo.data.quantisation import decode, encode
from vrpo.data.shards import open_arrays
from vrpo.models.online import open_features
from vrpo.prepare.classifier import fit_classifier
from vrpo.prepare.features import encode_features
from vrpo.prepare.images import write_images
from vrpo.prepare.latents import encode_latents
from vrpo.prepare.tokenizer import fit_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOKENIZER = TokenizerOptions(
    block_channels=[8, 8], batch_size=100, training=FitOptions(steps=2, batch_size=4)
)
ENCODER = EncoderOptions(
    architecture="test_vit",
    weights="trained",
    arguments={"patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 2},
    image_size=16,
    storage="float16",
    batch_size=100,
    training=FitOptions(steps=2, batch_size=8),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Digits, encoded on both."""
    folder = tmp_path_factory.mktemp("gpu")
    write_images(DataOptions(resolution=16), folder / "images.h5")
    fit_tokenizer(TOKENIZER, folder / "images.h5", folder / "tokenizer.safetensors", "cpu")
    fit_classifier(ENCODER, folder / "images.h5", folder / "encoder.safetensors", "cpu")
    for device in ("cpu", "cuda"):
        encode_latents(
            TOKENIZER,
            folder / "images.h5",
            folder / "tokenizer.safetensors",
            folder / f"latents-{device}.h5",
            device,
        )
        encode_features(
            ENCODER,
            "vit",
            folder / "images.h5",
            folder / "encoder.safetensors",
            folder / f"features-{device}.h5",
            device,
        )
    online = ENCODER.model_copy(update={"features": "online"})
    encode_features(
        online,
        "vit",
        folder / "images.h5",
        folder / "encoder.safetensors",
        folder / "features.json",
        "cuda",
    )
    return folder


@pytest.mark.parametrize(
    ("name", "key"),
    [("latents", "mean"), ("latents", "std"), ("latents", "labels"), ("features", "tokens")],
)
def test_every_row_is_that_of_the_cpu(prepared, name, key):
    ours, theirs = (
        open_arrays(prepared / f"{name}-{device}.h5").rows(key, slice(None)).astype(np.float32)
        for device in ("cuda", "cpu")
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)  # TF32 convolutions
    assert np.abs(ours - theirs).mean() < 2e-3


def test_computed_features(prepared):
    online = TrainingData(
        prepared / "latents-cpu.h5", {"vit": open_features(prepared / "features.json", "cuda")}
    )
    cached = TrainingData(prepared / "latents-cpu.h5", {"vit": prepared / "features-cpu.h5"})
    indices = np.arange(0, 1797, 9)
    batch = online.decode({key: values.cuda() for key, values in online.read(indices).items()})
    assert batch.tokens["vit"].is_cuda
    torch.testing.assert_close(
        batch.tokens["vit"].cpu(), cached.gather(indices).tokens["vit"], rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("storage", ["int8", "float8", "float16"])
def test_storage_is_the_same_on_both(storage):
    tokens = torch.randn(4, 16, 64, generator=torch.Generator().manual_seed(0))
    stored = encode(tokens, storage)
    on_gpu = encode(tokens.cuda(), storage)
    assert all(
        torch.equal(ours.cpu(), theirs)
        for ours, theirs in zip(on_gpu, stored, strict=True)
        if theirs is not None
    )
    assert torch.equal(decode(*on_gpu, storage).cpu(), decode(*stored, storage))
