"""Kernel Inception distance (arXiv:1801.01401).

The unbiased squared maximum mean discrepancy with a cubic polynomial kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vrpo.metrics.exact import full_precision
from vrpo.seeds import torch_generator


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation over random subsets, as papers print them."""

    value: float
    std: float
    subsets: int
    subset_size: int
    seed: int


def kernel_distance(
    reference: Tensor, samples: Tensor, subsets: int = 100, subset_size: int = 1_000, seed: int = 0
) -> KernelDistance:
    """KID of `samples` [N, D] against `reference` [R, D].

    The mean of `subsets` unbiased estimates, each on `subset_size` random rows of both (or as many
    as the smaller set has).
    """
    size = min(subset_size, len(reference), len(samples))
    generator = torch_generator("kernel-distance", seed)
    values = []
    with full_precision():
        for _ in range(subsets):
            x = reference[torch.randperm(len(reference), generator=generator)[:size]]
            y = samples[torch.randperm(len(samples), generator=generator)[:size]]
            values.append(squared_mmd(x, y))
    estimates = torch.stack(values)
    return KernelDistance(
        float(estimates.mean()), float(estimates.std(correction=0)), subsets, size, seed
    )


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate of MMD^2 between rows `x` [m, D] and `y` [n, D]; may be negative.

    arXiv:1801.01401, eq. 4, with the kernel k(a, b) = (a.b / D + 1)^3.
    """
    m, n = len(x), len(y)
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within = _off_diagonal(xx) / (m * (m - 1)) + _off_diagonal(yy) / (n * (n - 1))
    return within - 2 * xy.sum(dtype=torch.float64) / (m * n)


def _off_diagonal(kernel: Tensor) -> Tensor:
    return kernel.sum(dtype=torch.float64) - kernel.diagonal().sum(dtype=torch.float64)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    base = (a @ b.T).div_(a.shape[1]).add_(1)
    return base.square().mul_(base)
