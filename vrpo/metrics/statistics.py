"""Mean and covariance of features, streamed in float64 and mergeable over shards and ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vrpo.errors import UserError

BLOCK = 1024  # rows multiplied at once; fixed, so that sums do not depend on the batch size


@dataclass(frozen=True)
class Gaussian:
    """A fitted normal distribution: `mu` [D] and `sigma` [D, D], float64 on the CPU.

    `count` is the number of samples behind it; None where a file does not say (ADM's).
    """

    mu: Tensor
    sigma: Tensor
    count: int | None = None

    @property
    def dim(self) -> int:
        """D, the number of features."""
        return len(self.mu)

    @property
    def rank_deficient(self) -> bool:
        """Whether there are too few samples for a covariance of full rank."""
        return self.count is not None and self.count <= self.dim

    @cached_property
    def factor(self) -> Tensor:
        """L [D, R] with `sigma = L L^T`, R the numerical rank.

        Eigenvalues below D times the rounding error of the largest one are noise of the solver.
        Their square roots, 1e-8 each, would add up in the Frechet distance.

        Raises:
            UserError: `sigma` has negative eigenvalues beyond rounding, so it is no covariance.
        """
        values, vectors = torch.linalg.eigh((self.sigma + self.sigma.T) / 2)
        largest = float(values[-1].clamp(min=0))
        if float(values[0]) < -1e-6 * max(largest, 1e-300):
            raise UserError(
                f"covariance of {self.dim} features: smallest eigenvalue {float(values[0]):.3g} "
                "is negative, so it is none; compute it again"
            )
        kept = values > largest * self.dim * torch.finfo(values.dtype).eps
        return vectors[:, kept] * values[kept].sqrt()


class FeatureStatistics:
    """Running count, sum and F^T F of feature rows F [N, D].

    `update` takes any batches, `merge` any split: the result equals one pass up to rounding, and on
    one shard it is bitwise independent of the batch size.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        self.total = torch.zeros(dim, dtype=torch.float64)
        self.outer = torch.zeros(dim, dim, dtype=torch.float64)
        self._block = torch.empty(BLOCK, dim, dtype=torch.float64)
        self._filled = 0

    def update(self, features: Tensor | np.ndarray) -> None:
        """Add rows [B, D].

        Raises:
            UserError: a value is NaN or infinite.
        """
        rows = torch.as_tensor(features).to("cpu", torch.float64)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"features of shape [B, {self.dim}] are due, got {list(rows.shape)}")
        require_finite(rows, self.count + self._filled)
        while len(rows):
            taken = rows[: BLOCK - self._filled]
            self._block[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == BLOCK:
                self._flush()

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Statistics of both sets of rows together; neither is changed."""
        if other.dim != self.dim:
            raise ValueError(f"statistics of {self.dim} and {other.dim} features do not merge")
        both = FeatureStatistics(self.dim)
        for part in (self, other):
            count, total, outer = part.sums()
            both.count += count
            both.total += total
            both.outer += outer
        return both

    def sums(self) -> tuple[int, Tensor, Tensor]:
        """Count, sum [D] and F^T F [D, D]; to merge statistics of ranks, add them."""
        self._flush()
        return self.count, self.total, self.outer

    def gaussian(self) -> Gaussian:
        """Mean and Bessel-corrected covariance.

        Raises:
            UserError: fewer than two rows.
        """
        count, total, outer = self.sums()
        if count < 2:
            raise UserError(f"{count} image: a covariance needs at least 2; sample more images")
        mu = total / count
        sigma = (outer - count * torch.outer(mu, mu)) / (count - 1)
        return Gaussian(mu, sigma, count)

    def _flush(self) -> None:
        rows = self._block[: self._filled]
        self.total += rows.sum(0)
        self.outer.addmm_(rows.T, rows)
        self.count += self._filled
        self._filled = 0


def gaussian_of(features: Tensor | np.ndarray) -> Gaussian:
    """The Gaussian of feature rows [N, D]."""
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(features)
    return statistics.gaussian()


def merged(parts: Iterable[FeatureStatistics]) -> FeatureStatistics:
    """Statistics of all shards together."""
    first, *rest = parts
    for part in rest:
        first = first.merge(part)
    return first


def require_finite(rows: Tensor, first: int = 0) -> None:
    """Check that rows of features hold no NaN or infinity; `first` is the index of the first row.

    Raises:
        UserError: they do.
    """
    finite = torch.isfinite(rows).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise UserError(
            f"features of image {first + bad}: NaN or infinite "
            f"({int((~finite).sum())} images in this batch); "
            "the network's weights are damaged or not its own"
        )
