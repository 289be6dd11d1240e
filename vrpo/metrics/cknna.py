"""CKNNA, centred kernel nearest-neighbour alignment of two networks' features of the same images.

arXiv:2405.07987, appendix A; k = 10 in REPA. With unit features and their inner products K and L,
each point keeps its k nearest others. CKNNA(K, L) = A(K, L) / sqrt(A(K, K) A(L, L)), where A is
the unbiased Hilbert-Schmidt independence criterion (Song et al., JMLR 13, 2012, eq. 5) of the two
kernels on the pairs that are neighbours in both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from vrpo.errors import UserError

BLOCK = 2048  # rows whose inner products are held at once


class Neighbours(NamedTuple):
    """Inner products of each point with its k nearest others, and their pattern of ones [N, N]."""

    products: csr_array
    pattern: csr_array


def nearest(features: Tensor, k: int = 10) -> Neighbours:
    """The `k` nearest of each row of `features` [N, D], by cosine.

    Raises:
        UserError: too few rows.
    """
    count = len(features)
    if count <= max(k, 3):
        raise UserError(
            f"representation.images: {count} are too few for {k} neighbours; take more images"
        )
    unit = F.normalize(features.double(), dim=1)
    found = [_nearest_rows(unit, start, k) for start in range(0, count, BLOCK)]
    values, columns = (torch.cat(parts).cpu().numpy().ravel() for parts in zip(*found, strict=True))
    rows = np.arange(0, count * k + 1, k)
    return Neighbours(
        csr_array((values, columns, rows), (count, count)),
        csr_array((np.ones_like(values), columns, rows), (count, count)),
    )


def cknna(first: Neighbours, second: Neighbours) -> float:
    """Alignment of features of the same images: 1 for equal arrangements, about 0 for unrelated."""
    a, b = first.products, second.products
    own = _independence(a, a) * _independence(b, b)
    if own <= 0:  # all features equal, or hardly any mutual neighbours
        return 0.0
    shared = _independence(a.multiply(second.pattern), b.multiply(first.pattern))
    return float(shared / own**0.5)


def _nearest_rows(unit: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    products = unit[start : start + BLOCK] @ unit.T
    products.diagonal(start).fill_(-torch.inf)
    return tuple(products.topk(k, dim=1))


def _independence(a: csr_array, b: csr_array) -> float:
    """Unbiased HSIC of two kernels [N, N] with zero diagonals."""
    n = a.shape[0]
    shared = (
        a.multiply(b.T).sum()
        + a.sum() * b.sum() / ((n - 1) * (n - 2))
        - 2 * (a.sum(axis=0) @ b.sum(axis=1)) / (n - 2)
    )
    return float(shared / (n * (n - 3)))
