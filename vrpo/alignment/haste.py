"""HASTE: REPA and distilled attention maps, both stopped at one step (Wang et al., arXiv:2505.16792, section "HASTE").

The encoder's maps are exact up to the cache's int8 or float16: it holds queries and keys of the encoder's blocks (`encoders.<e>.attention`), from
which its maps over the patch tokens follow. For four blocks they take eight times the room of the tokens; the original runs the encoder in the loop.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vrpo.alignment.base import AlignmentBatch, AlignmentResult, ProjectedAlignment


def attention_cross_entropy(queries: Tensor, keys: Tensor, target_queries: Tensor, target_keys: Tensor) -> Tensor:
    """Mean over images, heads and queries of `-sum_m P_nm log A_nm`, a scalar, in fp32.

    `A = softmax(q k^T / sqrt(d))` is the network's map, `P` the encoder's; each is [B,heads,N,d], with heads and d of its own.
    Heads are paired in order; where one side has more, its last are left out, as the original's sixteen against twelve.
    """
    with torch.autocast(queries.device.type, enabled=False):
        heads = min(queries.shape[1], target_queries.shape[1])
        logits = _logits(queries[:, :heads], keys[:, :heads])  # (B, heads, N, N)
        target = _logits(target_queries[:, :heads], target_keys[:, :heads]).softmax(dim=-1)
        return -(target * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean()


def _logits(queries: Tensor, keys: Tensor) -> Tensor:
    return (queries.float() * queries.shape[-1] ** -0.5) @ keys.float().transpose(-2, -1)


class HASTE(ProjectedAlignment):
    """`L = -lambda mean_n cos(projector(h)_n, y_n) + lambda_A mean_l H(P_l, A_l)` for steps before `stop_step`, 0 from then on.

    After the stop the terms are multiplied by 0, not left out: one compiled graph and one set of DDP's gradient buckets serve the whole training.
    """

    def __init__(
        self,
        *,
        weight: float,
        attention_weight: float,
        attention_blocks: list[int],
        stop_step: int,
        **shape: Any,
    ) -> None:
        """`weight` is lambda, `attention_weight` lambda_A; the rest as in `vrpo.config.alignments.HASTEOptions` and `ProjectedAlignment`."""
        super().__init__(**shape)
        self.weight, self.attention_weight, self.stop_step = weight, attention_weight, stop_step
        self.attention_of = tuple(attention_blocks)

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        assert batch.step is not None, "HASTE stops by the step: the trainer gives it"
        cosines = self.cosine(batch.hidden[0], batch.tokens)  # (B)
        self.log.add(batch.noise_level, fidelity=-batch.error, semantic=cosines)
        cosine = cosines.mean()
        attention = torch.stack([self._attention_loss(batch, name) for name in self.encoders]).mean()
        active = (batch.step < self.stop_step).to(cosine.dtype)
        loss = active * (self.attention_weight * attention - self.weight * cosine)
        return AlignmentResult(loss, {"alignment": -cosine.detach(), "attention": attention.detach(), "active": active})

    def _attention_loss(self, batch: AlignmentBatch, encoder: str) -> Tensor:
        """Mean over the pairs of blocks."""
        targets = batch.encoder_attention[encoder].unbind(dim=1)  # L of (B, 2, heads, N, d)
        losses = [attention_cross_entropy(q, k, target[:, 0], target[:, 1]) for (q, k), target in zip(batch.attention, targets, strict=True)]
        return torch.stack(losses).mean()
