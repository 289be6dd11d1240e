"""REPA: static alignment of hidden tokens with a pretrained encoder (Yu et al., arXiv:2410.06940, eq. 6)."""

from __future__ import annotations

from vrpo.alignment.base import AlignmentBatch, AlignmentResult, ProjectedAlignment


class REPA(ProjectedAlignment):
    """`L = -lambda * mean_n cos(projector(h)_n, y_n)`; every state counts the same, always."""

    def __init__(self, *, weight: float = 0.5, width: int, token_widths: dict[str, int], depth: int, projector_width: int) -> None:
        """`weight` is lambda; the rest as in `ProjectedAlignment`."""
        super().__init__(width=width, token_widths=token_widths, depth=depth, projector_width=projector_width)
        self.weight = weight

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        cosine = self.cosine(batch.hidden[0], batch.tokens).mean()  # scalar
        return AlignmentResult(-self.weight * cosine, {"alignment": -cosine.detach()})
