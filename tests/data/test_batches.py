import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vrpo.data.arrays import ArrayWriter
from vrpo.data.batches import TrainingData, sample_indices
from vrpo.errors import UserError


@given(
    count=st.integers(1, 50),
    batch=st.integers(1, 120),
    seed=st.integers(0, 3),
    steps=st.integers(1, 12),
)
def test_epochs_are_permutations_and_batches_run_across_them(count, batch, seed, steps):
    stream = np.concatenate([sample_indices(count, batch, seed, step) for step in range(steps)])
    assert stream.dtype == np.int64 and len(stream) == steps * batch
    for start in range(0, len(stream) - count + 1, count):
        assert sorted(stream[start : start + count]) == list(range(count))
    assert len(set(stream[len(stream) // count * count :])) == len(stream) % count


def test_a_step_depends_on_nothing_but_seed_and_step():
    late = sample_indices(1000, 32, 5, 777)
    for step in range(5):
        sample_indices(1000, 32, 5, step)
    np.testing.assert_array_equal(sample_indices(1000, 32, 5, 777), late)
    assert not np.array_equal(sample_indices(1000, 32, 6, 777), late)
    first, second = (
        np.concatenate([sample_indices(64, 32, 0, 2 * epoch + half) for half in (0, 1)])
        for epoch in (0, 1)
    )
    assert not np.array_equal(first, second)


def test_nonsense_is_refused():
    for arguments in [(0, 1, 0, 0), (1, 0, 0, 0), (1, 1, 0, -1)]:
        with pytest.raises(ValueError, match="must be positive"):
            sample_indices(*arguments)


def write(path, rows, attributes):
    with ArrayWriter(
        path, {name: (values.shape, values.dtype) for name, values in rows.items()}, attributes
    ) as writer:
        writer.write(0, rows)
        writer.finish()
    return path


@pytest.fixture
def store(tmp_path):
    random = np.random.default_rng(0)
    rows = {
        "mean": random.normal(size=(20, 4, 2, 2)).astype(np.float16),
        "std": random.random((20, 4, 2, 2)).astype(np.float16),
        "labels": random.integers(0, 5, 20),
    }
    int8 = {
        "tokens": random.integers(-127, 128, (20, 3, 6), dtype=np.int8),
        "scale": random.random((20, 3)).astype(np.float16),
    }
    half = {"tokens": random.normal(size=(20, 3, 5)).astype(np.float16)}
    files = {
        "latents": write(tmp_path / "latents.h5", rows, {"images": "abc"}),
        "int8": write(tmp_path / "int8.h5", int8, {"images": "abc"}),
        "half": write(tmp_path / "half.h5", half, {"images": "abc"}),
    }
    return tmp_path, files, rows, int8, half


def test_gather(store):
    _, files, rows, int8, half = store
    data = TrainingData(files["latents"], {"i": files["int8"], "h": files["half"]})
    assert (
        data.count == 20
        and data.latent_shape == (4, 2, 2)
        and data.feature_shapes == {"i": (3, 6), "h": (3, 5)}
    )
    indices = np.array([7, 0, 19, 7])
    batch = data.gather(indices)
    assert (
        batch.mean.dtype == batch.std.dtype == torch.float32 and batch.labels.dtype == torch.int64
    )
    np.testing.assert_array_equal(batch.mean.numpy(), rows["mean"][indices].astype(np.float32))
    np.testing.assert_array_equal(batch.std.numpy(), rows["std"][indices].astype(np.float32))
    np.testing.assert_array_equal(batch.labels.numpy(), rows["labels"][indices])
    expected = int8["tokens"].astype(np.float32) * int8["scale"].astype(np.float32)[..., None]
    np.testing.assert_array_equal(batch.tokens["i"].numpy(), expected[indices])
    np.testing.assert_array_equal(
        batch.tokens["h"].numpy(), half["tokens"].astype(np.float32)[indices]
    )
    assert TrainingData(files["latents"], {}).gather(indices).tokens == {}


def test_files_of_other_images_are_refused(store):
    folder, files, _, int8, _ = store
    other = write(folder / "other.h5", int8, {"images": "xyz"})
    with pytest.raises(UserError, match=r"other\.h5: made from other images than .*latents\.h5"):
        TrainingData(files["latents"], {"i": other})
    short = write(
        folder / "short.h5", {name: values[:10] for name, values in int8.items()}, {"images": "abc"}
    )
    with pytest.raises(UserError, match=r"short\.h5: made from other images"):
        TrainingData(files["latents"], {"i": short})
    with pytest.raises(UserError, match="holds no array `mean`"):
        TrainingData(files["int8"], {})
    with pytest.raises(UserError, match="holds no array `tokens`"):
        TrainingData(files["latents"], {"i": files["latents"]})
