"""Frechet distance between two Gaussians: FID on pooled features, sFID on spatial ones.

    d^2 = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))

See arXiv:1706.08500, eq. 6, and arXiv:2103.03841 for sFID. The trace term is the sum of the square
roots of the eigenvalues of S_1 S_2. With S_i = L_i L_i^T these roots are the singular values of
L_1^T L_2, which are computed here. So no root is taken of a rounding error: covariances of
deficient rank (fewer samples than features) lose no digits, where the eigenvalues of the product
lose seven.
"""

from __future__ import annotations

import torch

from vrpo.errors import UserError
from vrpo.metrics.statistics import Gaussian


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Frechet distance, float64.

    Raises:
        UserError: different numbers of features.
    """
    return _without_roots(first, second) - 2 * trace_of_root(first, second)


def frechet_distance_by_product(first: Gaussian, second: Gaussian) -> float:
    """The same by the eigenvalues of S_1 S_2.

    An independent computation that checks the inputs and the linear algebra.
    """
    eigenvalues = torch.linalg.eigvals(first.sigma @ second.sigma)
    return _without_roots(first, second) - 2 * float(eigenvalues.real.clamp(min=0).sqrt().sum())


def trace_of_root(first: Gaussian, second: Gaussian) -> float:
    """tr((S_1 S_2)^(1/2)), the nuclear norm of L_1^T L_2."""
    product = first.factor.T @ second.factor
    return float(torch.linalg.svdvals(product).sum()) if product.numel() else 0.0


def _without_roots(first: Gaussian, second: Gaussian) -> float:
    if first.dim != second.dim:
        raise UserError(
            f"statistics of {first.dim} and of {second.dim} features: they come from different "
            "networks; compute the reference with this one"
        )
    difference = first.mu - second.mu
    return float(difference @ difference + first.sigma.trace() + second.sigma.trace())
