"""Diagnostics of an alignment by noise level: sums on the device, read when a row is logged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Reduce = Callable[[Tensor], Tensor]


class NoiseLevelLog(nn.Module):
    """Means of named quantities by noise level, over all rollouts since the last logged row.

    The sums are part of the training state: a resumed training logs what an undisturbed one does.
    """

    def __init__(self, names: tuple[str, ...], bins: int) -> None:
        """`bins` have equal width over noise levels 0 (clean) to 1 (noise)."""
        super().__init__()
        self.names, self.bins = names, bins
        self.register_buffer("sums", torch.zeros(2, len(names), bins, dtype=torch.float64))
        self.register_buffer("pending", torch.zeros(2, len(names), bins, dtype=torch.float64))
        self.register_buffer("first_bins", bins * torch.arange(len(names)), persistent=False)

    def add(self, noise_level: Tensor, **values: Tensor) -> None:
        """Add quantities [B] of a micro-batch's rollouts; non-finite values are left out."""
        # (V), without an upload
        first = torch.stack([self.first_bins[self.names.index(name)] for name in values])
        stacked = torch.stack([value.detach() for value in values.values()]).double()  # (V, B)
        finite = torch.isfinite(stacked)
        where = noise_level_bin(noise_level, self.bins).expand(len(values), -1) + first[:, None]
        summed = torch.stack([finite.double(), torch.where(finite, stacked, 0.0)])  # (2, V, B)
        self.pending.view(2, -1).scatter_add_(
            1, where.reshape(1, -1).expand(2, -1), summed.view(2, -1)
        )

    def add_sums(self, name: str, sums: Tensor) -> None:
        """Add a step's counts and sums [2,bins] over all ranks."""
        self.sums[:, self.names.index(name)] += sums

    def finish_step(self, all_reduce: Reduce, valid: Tensor) -> None:
        """Add the present step's sums over all ranks; those of a skipped step are dropped."""
        self.sums += torch.where(valid, all_reduce(self.pending.clone()), 0.0)
        self.pending.zero_()

    def take(self) -> dict[str, list[float]]:
        """Mean of each quantity in each bin, NaN where there was none, and begin anew."""
        count, total = self.sums.cpu().clone()
        self.sums.zero_()
        return dict(zip(self.names, (total / count).tolist(), strict=True))


def noise_level_bin(noise_level: Tensor, bins: int) -> Tensor:
    """Index [B] of the bin, of `bins` equal ones over [0, 1], of each noise level."""
    return (noise_level * bins).long().clamp(0, bins - 1)
