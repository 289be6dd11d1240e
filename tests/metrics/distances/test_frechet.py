"""Frechet distance against scipy's matrix square root, closed forms and low-rank cases."""

import numpy as np
import pytest
import scipy.linalg
import torch

from vrpo.errors import UserError
from vrpo.metrics.confidence import bootstrap_error, fid_infinity, influence_error
from vrpo.metrics.distances.frechet import frechet_distance, frechet_distance_by_product
from vrpo.metrics.statistics import Gaussian, gaussian_of


def draw(count, dim, seed, decay=3.0, mean=0.5):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(mean, 1.0, (count, dim))
        * np.logspace(0, -decay, dim)
        @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    )


def by_sqrtm(a, b):
    root = scipy.linalg.sqrtm(a.sigma.numpy() @ b.sigma.numpy())
    difference = (a.mu - b.mu).numpy()
    return difference @ difference + np.trace(a.sigma.numpy() + b.sigma.numpy() - 2 * np.real(root))


@pytest.mark.parametrize("dim", [1, 3, 64, 200])
@pytest.mark.parametrize("decay", [0.0, 3.0])
def test_equals_sqrtm(dim, decay):
    a, b = (
        gaussian_of(draw(3 * dim + 5, dim, 1, decay)),
        gaussian_of(draw(5 * dim + 5, dim, 2, decay, mean=0.3)),
    )
    expected = by_sqrtm(a, b)
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-7, rel=1e-7)
    assert frechet_distance_by_product(a, b) == pytest.approx(expected, abs=1e-7, rel=1e-7)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), abs=1e-12, rel=1e-10)


def test_diagonal_closed_form():
    rng = np.random.default_rng(0)
    mu, nu = rng.normal(size=(2, 100))
    s, t = rng.uniform(0, 2, size=(2, 100))
    a = Gaussian(torch.from_numpy(mu), torch.diag(torch.from_numpy(s**2)))
    b = Gaussian(torch.from_numpy(nu), torch.diag(torch.from_numpy(t**2)))
    assert frechet_distance(a, b) == pytest.approx(
        ((mu - nu) ** 2).sum() + ((s - t) ** 2).sum(), rel=1e-12
    )


@pytest.mark.parametrize("counts", [(20, 400), (20, 30), (100, 101)])
def test_rank_deficient_equals_nuclear_norm(counts):
    """With fewer samples than features the trace term is a nuclear norm.

    It is that of the centred rows' product, a small dense matrix.
    """
    x, y = draw(counts[0], 128, 3), draw(counts[1], 128, 4)
    centred = [(rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (x, y)]
    difference = x.mean(0) - y.mean(0)
    traces = sum((rows**2).sum() for rows in centred)
    expected = (
        difference @ difference
        + traces
        - 2 * np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    )
    a, b = gaussian_of(x), gaussian_of(y)
    assert a.rank_deficient
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-9)
    assert frechet_distance_by_product(a, b) == pytest.approx(expected, abs=1e-5)


def test_equal_is_zero():
    for count in (10, 500):
        a = gaussian_of(draw(count, 64, 5))
        assert abs(frechet_distance(a, a)) < 1e-11


def test_dead_features():
    x = draw(300, 16, 6)
    x[:, 3:7] = 0.0
    constant = gaussian_of(np.zeros((300, 16)))
    assert frechet_distance(gaussian_of(x), constant) == pytest.approx(
        float((gaussian_of(x).mu ** 2).sum() + gaussian_of(x).sigma.trace()), rel=1e-12
    )


def test_other_network_is_refused():
    with pytest.raises(UserError, match="64 and of 8 features"):
        frechet_distance(gaussian_of(draw(100, 64, 0)), gaussian_of(draw(100, 8, 0)))


def test_negative_covariance_is_refused():
    sigma = torch.diag(torch.tensor([1.0, -0.1], dtype=torch.float64))
    with pytest.raises(UserError, match="negative"):
        frechet_distance(
            Gaussian(torch.zeros(2, dtype=torch.float64), sigma), gaussian_of(draw(10, 2, 0))
        )


def test_standard_errors_agree_with_fresh_draws():
    """Both standard errors against the spread of the score over independent samples."""
    reference = gaussian_of(draw(4000, 8, 0, 1.0))
    rng = np.random.default_rng(9)
    root = np.linalg.cholesky(reference.sigma.numpy() + 0.2 * np.eye(8))
    fresh = [rng.normal(size=(500, 8)) @ root.T + 0.4 for _ in range(200)]
    spread = np.std([frechet_distance(gaussian_of(rows), reference) for rows in fresh])
    rows = torch.from_numpy(fresh[0])
    assert influence_error(rows, gaussian_of(rows), reference) == pytest.approx(spread, rel=0.2)
    assert bootstrap_error(rows, reference) == pytest.approx(spread, rel=0.25)


def test_extrapolation_takes_the_bias_away():
    """The FID of finite samples of the reference's own distribution is positive.

    Extrapolated it is about zero.
    """
    reference = Gaussian(torch.zeros(32, dtype=torch.float64), torch.eye(32, dtype=torch.float64))
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(4000, 32)))
    found = fid_infinity(rows, reference)
    assert found["sizes"][-1] == 4000
    assert found["fid"][-1] == pytest.approx(
        frechet_distance(gaussian_of(rows), reference), rel=1e-9
    )
    assert found["fid"][-1] > 0.05
    assert abs(found["value"]) < 0.3 * found["fid"][-1]
    assert fid_infinity(rows[:40], reference) is None
