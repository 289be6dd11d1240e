"""Precision, recall and radii against brute force in float64; KID against a double loop."""

import numpy as np
import pytest
import torch

from vrpo.errors import UserError
from vrpo.metrics.distances import neighbours
from vrpo.metrics.distances.kernel_distance import kernel_distance, squared_mmd
from vrpo.metrics.distances.neighbours import precision_recall, radii


@pytest.fixture(params=[64, 4096], ids=["many blocks", "one block"])
def block(request, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCKS", {"fp32": request.param, "adm_fp16": request.param})


def points(count, dim, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator) + shift


def distances64(a, b):
    a, b = a.double().numpy(), b.double().numpy()
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def brute_radii(x, k):
    distances = distances64(x, x)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, 1)[:, k - 1]


def brute(reference, samples, k):
    between = distances64(reference, samples)
    precision = (between <= brute_radii(reference, k)[:, None]).any(0).mean()
    recall = (between <= brute_radii(samples, k)[None]).any(1).mean()
    return precision, recall


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("mean", [0.0, 30.0], ids=["centred", "far from zero"])
def test_equals_brute_force(k, mean):
    reference, samples = points(150, 12, 0, mean), points(203, 12, 1, mean + 0.6)
    precision, recall = brute(reference, samples, k)
    found = precision_recall(reference, samples, k)
    assert 0.05 < precision < 0.95
    assert (found.precision, found.recall) == (precision, recall)
    np.testing.assert_allclose(radii(samples, k).numpy(), brute_radii(samples, k), rtol=2e-5)


@pytest.mark.usefixtures("block")
def test_itself_is_no_neighbour():
    """A repeated point has its twin at distance zero, an unrepeated one does not have itself."""
    x = points(100, 6, 0)
    x[1] = x[0]
    assert radii(x, 1)[0] == 0
    assert radii(x, 1)[2] > 0.1
    assert radii(x, 2)[0] > 0.1


@pytest.mark.parametrize("distances", ["fp32", "adm_fp16"])
def test_equal_and_disjoint_sets(distances):
    x = points(120, 8, 0)
    same, far = (
        precision_recall(x, x.clone(), distances=distances),
        precision_recall(x, x + 100.0, distances=distances),
    )
    assert (same.precision, same.recall) == (1.0, 1.0)
    assert (far.precision, far.recall) == (0.0, 0.0)


def adm_distances(u, v):
    """ADM's block, operation by operation in NumPy's float16 with float32 sums."""
    with np.errstate(over="ignore", invalid="ignore"):
        u16, v16 = u.numpy().astype(np.float16), v.numpy().astype(np.float16)
        norm_u = (u16 * u16).astype(np.float32).sum(1).astype(np.float16)[:, None]
        norm_v = (v16 * v16).astype(np.float32).sum(1).astype(np.float16)[None]
        product = (u16.astype(np.float32) @ v16.astype(np.float32).T).astype(np.float16)
        half = np.maximum(norm_u - np.float16(2) * product + norm_v, np.float16(0))
    return (
        half.astype(np.float32) if np.isfinite(half).all() else distances64(u, v).astype(np.float32)
    )


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("scale", [1.0, 80.0], ids=["finite", "overflows to float32"])
def test_adm_fp16_is_adms_arithmetic(scale):
    reference, samples = scale * points(60, 12, 0), scale * points(64, 12, 1, 0.5)
    radii_r, radii_s = (np.sort(adm_distances(x, x), 1)[:, 3] for x in (reference, samples))
    between = adm_distances(reference, samples)
    expected = (
        (between <= radii_r[:, None]).any(0).mean(),
        (between <= radii_s[None]).any(1).mean(),
    )
    found = precision_recall(reference, samples, 3, "adm_fp16")
    assert (found.precision, found.recall) == expected
    np.testing.assert_allclose(radii(samples, 3, "adm_fp16").numpy(), radii_s, rtol=1e-5)


def test_too_few():
    with pytest.raises(UserError, match="3 images are too few"):
        precision_recall(points(3, 4, 0), points(10, 4, 1))


def test_squared_mmd_equals_loop():
    x, y = points(7, 5, 0).double(), points(9, 5, 1).double()

    def kernel(a, b):
        return (float(a @ b) / 5 + 1) ** 3

    xx = np.mean([kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    yy = np.mean([kernel(y[i], y[j]) for i in range(9) for j in range(9) if i != j])
    xy = np.mean([kernel(a, b) for a in x for b in y])
    assert squared_mmd(x, y).item() == pytest.approx(xx + yy - 2 * xy, rel=1e-10)


def test_kid_is_unbiased_on_equal_distributions():
    """The mean over independent pairs of equal sets is zero within its standard error.

    This holds at any size; a shift is detected.
    """
    for size in (10, 60):
        estimates = torch.stack(
            [squared_mmd(points(size, 16, 2 * i), points(size, 16, 2 * i + 1)) for i in range(400)]
        )
        assert abs(estimates.mean()) < 3 * estimates.std() / 20
        assert (estimates < 0).any()
    equal, shifted = (
        kernel_distance(points(500, 16, 0), points(700, 16, 1, shift), subset_size=200)
        for shift in (0.0, 0.5)
    )
    assert abs(equal.value) < 5 * equal.std / 10
    assert shifted.value > 20 * abs(equal.value)
    assert (equal.subsets, equal.subset_size) == (100, 200)
    assert kernel_distance(points(50, 16, 0), points(700, 16, 1)).subset_size == 50
