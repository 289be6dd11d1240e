"""Improved precision and recall (arXiv:1904.06991) as ADM's evaluator defines them.

Distances are squared Euclidean. The radius of a point is the distance to its k-th nearest other
point of its own set. Precision is the fraction of samples within the radius of some reference,
recall the fraction of references within that of some sample. Distances are computed in blocks of
bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from vrpo.errors import UserError
from vrpo.metrics.exact import full_precision

Distances = Literal["fp32", "adm_fp16"]
BLOCKS = {"fp32": 4096, "adm_fp16": 10_000}
"""Rows per block; ADM decides per 10,000 x 10,000 block whether float16 is enough."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Both in [0, 1]; None: not computed."""

    precision: float | None
    recall: float | None


def precision_recall(
    reference: Tensor,
    samples: Tensor,
    k: int = 3,
    distances: Distances = "fp32",
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> PrecisionRecall:
    """Precision and recall of `samples` [N, D] against `reference` [R, D].

    Args:
        reference: features of real images.
        samples: features of generated images.
        k: the neighbour whose distance is a point's radius.
        distances: `fp32`, or `adm_fp16`: rounded to float16 after each operation, in blocks where
            that is finite, as ADM does.
        device: where blocks are multiplied; the features stay where they are.
        progress: show a bar.

    Raises:
        UserError: a set has no more than `k` points.
    """
    with full_precision():
        centre = reference.mean(0, dtype=torch.float64).to(reference.dtype)
        work = _Pairs(distances, torch.device(device), centre)
        size = work.size
        n, m = -(-len(reference) // size), -(-len(samples) // size)
        total = n * (n + 1) // 2 + m * (m + 1) // 2 + n * m
        with tqdm(total=total, desc="neighbours", unit="block", disable=not progress) as bar:
            reference_radii = _radii(reference, k, work, bar)
            sample_radii = _radii(samples, k, work, bar)
            recalled = torch.zeros(len(reference), dtype=torch.bool)
            precise = torch.zeros(len(samples), dtype=torch.bool)
            for rows in _blocks(len(reference), size):
                for columns in _blocks(len(samples), size):
                    block = work.block(reference[rows], samples[columns])  # [n, m]
                    recalled[rows] |= (block <= sample_radii[columns]).any(1).cpu()
                    precise[columns] |= (block <= reference_radii[rows, None]).any(0).cpu()
                    bar.update()
    return PrecisionRecall(float(precise.double().mean()), float(recalled.double().mean()))


def radii(
    features: Tensor, k: int = 3, distances: Distances = "fp32", device: torch.device | str = "cpu"
) -> Tensor:
    """Squared distance [N] of each row of `features` [N, D] to its k-th nearest other row.

    Raises:
        UserError: no more than `k` rows.
    """
    with full_precision(), tqdm(disable=True) as bar:
        work = _Pairs(distances, torch.device(device), features.mean(0))
        return _radii(features, k, work, bar).cpu()


def _radii(features: Tensor, k: int, work: _Pairs, bar: tqdm) -> Tensor:
    count = len(features)
    if count <= k:
        raise UserError(
            f"precision and recall: {count} images are too few for neighbour {k}; "
            "take more images or a smaller `neighbours`"
        )
    # the point itself, at distance zero, is the nearest of the k + 1
    nearest = torch.full((count, k + 1), torch.inf, device=work.device)
    for rows in _blocks(count, work.size):
        for columns in _blocks(count, work.size):
            if columns.start < rows.start:
                continue
            if columns.start == rows.start:
                block = work.block(features[rows], features[rows], same=True)
                nearest[rows] = _smallest(nearest[rows], block, k + 1)
            else:
                blocks = work.both_ways(features[rows], features[columns])
                for part, block in zip((rows, columns), blocks, strict=True):
                    nearest[part] = _smallest(nearest[part], block, k + 1)
            bar.update()
    return nearest.amax(1)


def _smallest(known: Tensor, block: Tensor, k: int) -> Tensor:
    """The `k` smallest of each row of `known` [n, k] and `block` [n, m], in any order."""
    found = block.topk(min(k, block.shape[1]), dim=1, largest=False, sorted=False).values.float()
    return torch.cat([known, found], 1).topk(k, dim=1, largest=False, sorted=False).values


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class _Pairs:
    """Squared distances between two blocks of rows, in the chosen precision."""

    def __init__(self, distances: Distances, device: torch.device, centre: Tensor) -> None:
        self.half = distances == "adm_fp16"
        self.size = BLOCKS[distances]
        self.device = device
        self.centre = centre.to(device, torch.float32)

    def block(self, u: Tensor, v: Tensor, same: bool = False) -> Tensor:
        """Distances [n, m] of `u` [n, D] and `v` [m, D], float16 or float32.

        `same`: they are the same rows.
        """
        if self.half:
            return self._finished(u, v, self._half_products(u, v))
        block = self._single(u, v)
        return block.fill_diagonal_(0.0) if same else block

    def both_ways(self, u: Tensor, v: Tensor) -> Iterator[Tensor]:
        """Distances [n, m], then [m, n] with `u` and `v` exchanged, from the same products."""
        if self.half:
            products = self._half_products(u, v)
            yield self._finished(u, v, products)
            yield self._finished(v, u, products.T)
        else:
            block = self._single(u, v)
            yield block
            yield block.T.contiguous()

    def _single(self, u: Tensor, v: Tensor) -> Tensor:
        # distances do not change when both are centred, and lose fewer digits
        u = u.to(self.device, torch.float32) - self.centre
        v = v.to(self.device, torch.float32) - self.centre
        block = torch.addmm(v.square().sum(1), u, v.T, alpha=-2)
        return block.add_(u.square().sum(1, keepdim=True)).clamp_(min=0)

    def _half_products(self, u: Tensor, v: Tensor) -> Tensor:
        return (u.to(self.device).half().float() @ v.to(self.device).half().float().T).half()

    def _finished(self, u: Tensor, v: Tensor, products: Tensor) -> Tensor:
        norm_u, norm_v = (x.to(self.device).half().square().float().sum(1).half() for x in (u, v))
        block = (products * -2).add_(norm_u[:, None]).add_(norm_v).clamp_(min=0)
        # a maximum is NaN or infinite when any element is
        return block if bool(torch.isfinite(block.amax())) else self._single(u, v)
