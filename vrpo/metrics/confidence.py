"""Confidence of scores.

Standard errors of FID and of the Inception score, and FID extrapolated to infinitely many samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vrpo.metrics.distances.frechet import frechet_distance
from vrpo.metrics.statistics import FeatureStatistics, Gaussian
from vrpo.seeds import numpy_generator, torch_generator

NORMAL_95 = 1.959964
BOOTSTRAP_DIM = 256  # above it a resample's covariance takes seconds
REPLICATES = 200
SIZES = 8


def fid_interval(
    features: Tensor, fitted: Gaussian, reference: Gaussian, seed: int = 0
) -> dict[str, Any]:
    """95% interval of the FID of `features` [N, D], over samples (not over training seeds).

    The standard error comes from the bootstrap for few features, else from the influence function;
    the interval is normal around the score. `fitted` is the Gaussian of `features`.
    """
    value = frechet_distance(fitted, reference)
    if fitted.dim <= BOOTSTRAP_DIM:
        return _interval(value, bootstrap_error(features, reference, seed), "bootstrap", seed)
    return _interval(
        value, influence_error(features, fitted, reference), "influence function", None
    )


def bootstrap_error(
    features: Tensor, reference: Gaussian, seed: int = 0, replicates: int = REPLICATES
) -> float:
    """Standard deviation of the FID over resamples of `features` [N, D] with replacement."""
    rows = features.double()
    count = len(rows)
    generator = numpy_generator("bootstrap-fid", seed)
    distances = torch.empty(replicates, dtype=torch.float64)
    for i in range(replicates):
        weights = torch.from_numpy(generator.multinomial(count, np.full(count, 1 / count))).double()
        mu = weights @ rows / count
        sigma = (rows.T @ (rows * weights[:, None]) - count * torch.outer(mu, mu)) / (count - 1)
        # tr (S_1 S_2)^(1/2) by the eigenvalues of L_2^T S_1 L_2: half the work of factoring both,
        # and errors of 1e-7 do not matter here
        product = reference.factor.T @ sigma @ reference.factor
        roots = torch.linalg.eigvalsh(product).clamp(min=0).sqrt()
        difference = mu - reference.mu
        traces = difference @ difference + sigma.trace() + reference.sigma.trace()
        distances[i] = traces - 2 * roots.sum()
    return float(distances.std())


def influence_error(
    features: Tensor, fitted: Gaussian, reference: Gaussian, rows_at_once: int = 4096
) -> float:
    """Standard error of the FID to first order in 1/N, from one pass over `features` [N, D].

    The squared distance to N(mu_2, S_2) has the derivatives 2 (mu_1 - mu_2) for mu_1 and I - T for
    S_1, where T S_1 T = S_2 is the optimal transport map. So a sample x with c = x - mu_1 moves the
    FID by psi(x) / N, psi = 2 (mu_1 - mu_2).c + c^T (I - T) c - tr((I - T) S_1).
    """
    values, vectors = torch.linalg.eigh(fitted.factor.T @ reference.sigma @ fitted.factor)
    # the factor's columns are orthogonal: its pseudo-inverse is its scaled transpose
    inverse = fitted.factor / fitted.factor.square().sum(0)  # [D, R]
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    slope = torch.eye(fitted.dim, dtype=torch.float64) - inverse @ root @ inverse.T
    difference = 2 * (fitted.mu - reference.mu)
    constant = (slope * fitted.sigma).sum()
    squares = 0.0
    for rows in features.split(rows_at_once):
        centred = rows.double() - fitted.mu
        psi = centred @ difference + ((centred @ slope) * centred).sum(1) - constant
        squares += float(psi.square().sum())
    return (squares**0.5) / len(features)


def inception_score_interval(
    logits: Tensor, split_size: int, value: float, seed: int = 0, replicates: int = REPLICATES
) -> dict[str, Any]:
    """95% interval of the Inception score `value` of `logits` [N, K], chunks of permuted images.

    The bootstrap draws within each chunk. A chunk's score is exp(mean_i a_i + H(mean_i p_i)) with
    a_i = sum_k p_ik log p_ik: all resamples are one matrix product.
    """
    size = min(split_size, len(logits))
    splits = len(logits) // size
    generator = numpy_generator("bootstrap-is", seed)
    scores = torch.zeros(replicates, dtype=torch.float64)
    for chunk in logits[: splits * size].split(size):
        log_p = torch.log_softmax(chunk.double(), 1)
        p = log_p.exp()
        negative_entropy = (p * log_p).sum(1)
        drawn = generator.multinomial(size, np.full(size, 1 / size), size=replicates)
        weights = torch.from_numpy(drawn).double() / size  # [replicates, n]
        mean = weights @ p
        logs = weights @ negative_entropy - torch.special.xlogy(mean, mean).sum(1)
        scores += logs.exp() / splits
    return _interval(value, float(scores.std()), "bootstrap", seed)


def fid_infinity(
    features: Tensor, reference: Gaussian, seed: int = 0, sizes: int = SIZES
) -> dict[str, Any] | None:
    """FID at several sample sizes, extrapolated to infinitely many samples (arXiv:1911.07023).

    FID_N is linear in 1/N. The subsets are nested beginnings of one permutation. Sizes at which the
    covariance is of deficient rank are left out; returns None if fewer than three remain.
    """
    count, dim = features.shape
    order = torch.randperm(count, generator=torch_generator("fid-infinity", seed))
    ends = [end for end in (count * i // sizes for i in range(1, sizes + 1)) if end > dim]
    if len(ends) < 3:
        return None
    statistics = FeatureStatistics(dim)
    distances = []
    start = 0
    for end in ends:
        statistics.update(features[order[start:end]])
        distances.append(frechet_distance(statistics.gaussian(), reference))
        start = end
    slope, intercept = np.polyfit(1 / np.array(ends), distances, 1)
    fitted = {"value": float(intercept), "slope": float(slope)}
    return {**fitted, "sizes": ends, "fid": distances, "seed": seed}


def _interval(value: float, error: float, method: str, seed: int | None) -> dict[str, Any]:
    low, high = value - NORMAL_95 * error, value + NORMAL_95 * error
    return {
        "value": value,
        "standard_error": error,
        "low": low,
        "high": high,
        "level": 0.95,
        "method": method,
        "seed": seed,
    }
