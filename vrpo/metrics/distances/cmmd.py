"""CMMD (arXiv:2401.09603): maximum mean discrepancy of CLIP embeddings with a Gaussian kernel.

As in the authors' code (google-research/cmmd): k(a, b) = exp(-|a - b|^2 / (2 sigma^2)) with
sigma = 10, the biased estimate of MMD^2 (all pairs, a row with itself, too), times 1,000.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIGMA = 10.0
SCALE = 1000.0
BLOCK = 2048  # rows whose distances are in memory at once


def cmmd(reference: Tensor, samples: Tensor) -> float:
    """CMMD of embeddings `samples` [N, D] against `reference` [R, D], never negative."""
    x, y = reference.double(), samples.double()
    within = _mean_kernel(x, x) + _mean_kernel(y, y)
    return SCALE * float(within - 2 * _mean_kernel(x, y))


def _mean_kernel(x: Tensor, y: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    squares = y.square().sum(1)
    for rows in x.split(BLOCK):
        distances = rows.square().sum(1, keepdim=True) + squares - 2 * rows @ y.T  # (B, N), squared
        total += distances.div_(-2 * SIGMA**2).exp_().sum()
    return total / (len(x) * len(y))
