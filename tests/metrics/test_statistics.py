"""Streamed statistics against NumPy, in one pass, in batches, in shards."""

import numpy as np
import pytest
import torch

from vrpo.errors import UserError
from vrpo.metrics.statistics import BLOCK, FeatureStatistics, gaussian_of, merged


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return rng.normal(3.0, 1.0, (2 * BLOCK + 77, 24)) @ rng.normal(size=(24, 24))


def close(a, b):
    return float((a - b).abs().max() / b.abs().max())


def test_equals_numpy(features):
    fitted = gaussian_of(features)
    assert fitted.count == len(features)
    assert close(fitted.mu, torch.from_numpy(features.mean(0))) < 1e-12
    assert close(fitted.sigma, torch.from_numpy(np.cov(features, rowvar=False))) < 1e-12


@pytest.mark.parametrize("cuts", [[1], [5, 6, 700], list(range(100, 2000, 100))])
def test_shards_equal_one_pass(features, cuts):
    parts = []
    for rows in np.split(features, cuts):
        part = FeatureStatistics(features.shape[1])
        part.update(rows)
        parts.append(part)
    whole = gaussian_of(features)
    both = merged(parts[::-1]).gaussian()
    assert both.count == whole.count
    assert close(both.mu, whole.mu) < 1e-10
    assert close(both.sigma, whole.sigma) < 1e-10


def test_batch_size_changes_no_bit(features):
    def streamed(size):
        statistics = FeatureStatistics(features.shape[1])
        for start in range(0, len(features), size):
            statistics.update(features[start : start + size])
        return statistics.gaussian()

    one, other = streamed(7), streamed(1000)
    assert torch.equal(one.mu, other.mu)
    assert torch.equal(one.sigma, other.sigma)


def test_merging_changes_neither(features):
    first, second = FeatureStatistics(24), FeatureStatistics(24)
    first.update(features[:50])
    second.update(features[50:90])
    before = first.gaussian()
    first.merge(second)
    assert torch.equal(first.gaussian().sigma, before.sigma)


def test_merging_different_networks_fails():
    with pytest.raises(ValueError, match="24 and 8"):
        FeatureStatistics(24).merge(FeatureStatistics(8))


def test_nan_is_named():
    statistics = FeatureStatistics(2)
    statistics.update(np.zeros((5, 2)))
    with pytest.raises(UserError, match="image 6: NaN"):
        statistics.update(np.array([[0.0, 1.0], [np.nan, 0.0]]))


def test_one_image_is_too_few():
    statistics = FeatureStatistics(2)
    statistics.update(np.zeros((1, 2)))
    with pytest.raises(UserError, match="at least 2"):
        statistics.gaussian()


def test_rank():
    assert gaussian_of(np.random.default_rng(0).normal(size=(8, 8))).rank_deficient
    assert not gaussian_of(np.random.default_rng(0).normal(size=(9, 8))).rank_deficient
    assert gaussian_of(np.random.default_rng(0).normal(size=(5, 8))).factor.shape == (8, 4)
