"""HASTE: REPA and distilled attention maps, both stopped at one step (arXiv:2505.16792).

The encoder's maps are exact up to the cache's int8 or float16: it holds queries and keys of the
encoder's blocks (`encoders.<e>.attention`), from which its maps over the patch tokens follow. For
four blocks they take eight times the room of the tokens; the original runs the encoder in the loop.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vrpo.alignment.base import AlignmentBatch, AlignmentResult, ProjectedAlignment


def attention_cross_entropy(
    queries: Tensor, keys: Tensor, target_queries: Tensor, target_keys: Tensor
) -> Tensor:
    """Mean over images, heads and queries of `-sum_m P_nm log A_nm`, a scalar, in fp32.

    `A = softmax(q k^T / sqrt(d))` is the network's map, `P` the encoder's. Queries and keys are
    [B,heads,N,d], each side with its own heads and d. Heads are paired in order; the last ones of
    the side that has more are left out, as in the original (sixteen against twelve).
    """
    with torch.autocast(queries.device.type, enabled=False):
        heads = min(queries.shape[1], target_queries.shape[1])
        logits = _logits(queries[:, :heads], keys[:, :heads])  # (B, heads, N, N)
        target = _logits(target_queries[:, :heads], target_keys[:, :heads]).softmax(dim=-1)
        return -(target * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean()


def _logits(queries: Tensor, keys: Tensor) -> Tensor:
    return (queries.float() * queries.shape[-1] ** -0.5) @ keys.float().transpose(-2, -1)


class HASTE(ProjectedAlignment):
    """`L = -lambda mean_n cos(projector(h)_n, y_n) + lambda_A mean_l H(P_l, A_l)`; later 0.

    From `stop_step` on the terms are multiplied by 0, not left out: one compiled graph and one set
    of DDP's gradient buckets serve the whole training.
    """

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        assert batch.step is not None, "HASTE stops by the step: the trainer gives it"
        cosines = self.cosine(batch.hidden[0], batch.tokens)  # (B)
        self.log.add(batch.noise_level, fidelity=-batch.error, semantic=cosines)
        cosine = cosines.mean()
        attention = torch.stack(
            [self._attention_loss(batch, name) for name in self.options.encoders]
        ).mean()
        active = (batch.step < self.options.stop_step).to(cosine.dtype)
        weight, attention_weight = self.options.weight, self.options.attention_weight
        loss = active * (attention_weight * attention - weight * cosine)
        return AlignmentResult(
            loss, {"alignment": -cosine.detach(), "attention": attention.detach(), "active": active}
        )

    def _attention_loss(self, batch: AlignmentBatch, encoder: str) -> Tensor:
        """Mean over the pairs of blocks."""
        targets = batch.encoder_attention[encoder].unbind(dim=1)  # L of (B, 2, heads, N, d)
        losses = [
            attention_cross_entropy(q, k, target[:, 0], target[:, 1])
            for (q, k), target in zip(batch.attention, targets, strict=True)
        ]
        return torch.stack(losses).mean()
