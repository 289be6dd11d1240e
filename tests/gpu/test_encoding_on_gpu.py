"""Encoding stages and computed features on a GPU against the CPU."""

import numpy as np
import pytest
import torch

from vrpo.config.data import DataOptions
from vrpo.data.batches import TrainingData
from vrpo.data.quantisation import decode, encode
from vrpo.data.shards import open_arrays
from vrpo.models.online import open_features

from tests.fixtures.prepared import Preparation, small_encoder, small_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PREPARATION = Preparation(
    DataOptions(resolution=16),
    small_tokenizer(batch_size=100),
    small_encoder(
        {"patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 2},
        storage="float16",
        batch_size=100,
    ),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Digits, encoded on both."""
    folder = tmp_path_factory.mktemp("gpu")
    PREPARATION.fit(folder)
    for device in ("cpu", "cuda"):
        PREPARATION.encode_latents(folder, folder / f"latents-{device}.h5", device=device)
        PREPARATION.encode_features(folder, folder / f"features-{device}.h5", device=device)
    PREPARATION.encode_features(folder, folder / "features.json", device="cuda", features="online")
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
