"""REPA: static alignment of hidden tokens with a pretrained encoder (Yu et al., arXiv:2410.06940, eq. 6)."""

from __future__ import annotations

from typing import Any

import torch

from vrpo.alignment.base import AlignmentBatch, AlignmentResult, ProjectedAlignment


class REPA(ProjectedAlignment):
    """`L = -lambda * mean_n cos(projector(h)_n, y_n)`; every state counts the same, always."""

    logged = (*ProjectedAlignment.logged, "weight")

    def __init__(self, *, weight: float = 0.5, **shape: Any) -> None:
        """`weight` is lambda; `shape` as in `ProjectedAlignment`."""
        super().__init__(**shape)
        self.weight = weight

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        cosine = self.cosine(batch.hidden[0], batch.tokens)  # (B)
        factor = self.weight_factor(batch) * torch.ones_like(cosine.detach())  # (B)
        self.log.add(batch.noise_level, fidelity=-batch.error, semantic=cosine, weight=factor)
        return AlignmentResult(-self.weight * (factor * cosine).mean(), {"alignment": -cosine.detach().mean()})
