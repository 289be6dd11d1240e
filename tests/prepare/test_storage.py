"""Tokens stored in fewer bits, and how far they are off."""

import numpy as np
import pytest
import torch

from vrpo.data.arrays import Arrays
from vrpo.data.batches import TrainingData
from vrpo.data.quantisation import STORED_TYPES, decode, encode, storage_error

from tests.fixtures.prepared import DIGITS, DIGITS_COUNT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("storage", "mean", "worst"),
    [("int8", 1e-4, 3e-4), ("float8", 6e-4, 8e-4), ("float16", 5e-8, 1e-7)],
)
def test_storage_errors(storage, mean, worst):
    tokens = torch.randn(8, 20, 768, generator=torch.Generator().manual_seed(0)) * torch.logspace(
        -3, 3, 20
    ).view(20, 1)
    values, scale = encode(tokens, storage)
    assert str(values.dtype) == f"torch.{STORED_TYPES[storage]}" and (scale is None) == (
        storage == "float16"
    )
    decoded = decode(values, scale, storage)
    assert decoded.dtype == torch.float32
    error = storage_error(tokens, decoded)
    assert mean / 4 < error[:, 0].mean() < mean and error[:, 1].max() < worst
    again = decode(*encode(decoded, storage), storage)
    assert (again - decoded).abs().max() <= 2e-3 * decoded.abs().max()
    zeros = encode(torch.zeros(1, 1, 8), storage)
    assert not decode(*zeros, storage).any() and (scale is None or torch.isfinite(zeros[1]).all())


def test_int8_is_at_most_about_half_a_level_off():
    tokens = torch.randn(5, 4, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(
        -3, 3, 4
    ).view(4, 1)
    values, scale = encode(tokens, "int8")
    level = scale.float().unsqueeze(-1)
    assert (
        (decode(values, scale, "int8") - tokens).abs() <= (0.5 + 127 * 2**-11) * level * 1.001
    ).all()  # the scale's rounding clips the largest value


@pytest.mark.parametrize("storage", ["float8", "float16"])
def test_other_storages(whole, tmp_path, storage):
    DIGITS.encode_features(whole, tmp_path / "features.h5", storage=storage, attention=[1])
    arrays, exact = Arrays(tmp_path / "features.h5"), Arrays(whole / "features.h5")
    assert (
        arrays.attributes["storage"] == storage and arrays.dtype("tokens") == STORED_TYPES[storage]
    )
    rows = np.arange(50)
    ours, theirs = (
        decode(
            torch.from_numpy(file.rows("tokens", rows)),
            torch.from_numpy(file.rows("scale", rows)) if "scale" in file else None,
            file.attributes["storage"],
        )
        for file in (arrays, exact)
    )
    assert storage_error(ours, theirs).max() < 2e-3
    gathered = TrainingData(whole / "latents.h5", {"vit": tmp_path / "features.h5"}).gather(
        rows, attention=True
    )
    assert (
        torch.equal(gathered.tokens["vit"], ours)
        and gathered.attention["vit"].shape[1:] == arrays.shape("attention")[1:]
    )
    assert 0 < arrays.attributes["error"]["mean"] < {"float8": 1e-3, "float16": 1e-6}[storage]
    assert arrays.shape("attention")[:3] == (DIGITS_COUNT, 1, 2) and (
        "attention_scale" in arrays
    ) == (storage == "float8")
