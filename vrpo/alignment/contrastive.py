"""Contrastive alignment: REPA with NT-Xent in place of the cosine (docs/method.md, eq. 7).

REPA's paper (arXiv:2410.06940) compares the cosine with NT-Xent, the normalized
temperature-scaled cross-entropy of SimCLR (arXiv:2002.05709, eq. 1), and trains with the cosine.
Its public code has the cosine alone, so negatives, direction and temperature are our choice.

Each projected token is compared with the encoder's tokens at the same place in all images of the
global batch. The encoder's tokens are data: the loss runs in one direction, from projected tokens
to fixed candidates, so it is a mean over rollouts and does not depend on how ranks and
micro-batches cut the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vrpo.alignment.base import (
    AlignmentBatch,
    AlignmentContext,
    AlignmentResult,
    GlobalTargets,
    ProjectedAlignment,
    cosine_similarity,
)
from vrpo.config.alignments.contrastive import ContrastiveOptions
from vrpo.seeds import torch_generator


class Contrastive(ProjectedAlignment):
    """`L = lambda * mean_n -log(exp(c_ii,n / T) / sum_j exp(c_ij,n / T))`, `c_ij = cos(mu_i, y_j)`.

    The sum runs over image i and the images j of the global batch that are no copies of it.
    """

    needs_global_targets = True

    def __init__(self, options: ContrastiveOptions, context: AlignmentContext) -> None:
        """See the base class."""
        super().__init__(options, context)
        widest = max(channels for _, channels in context.tokens.values())
        factors = torch.randint(1 << 19, (widest,), generator=torch_generator("token-identity"))
        self.register_buffer("factors", factors, persistent=False)  # of `token_identity`

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        targets = batch.global_targets
        assert targets is not None, "the trainer gives them where `needs_global_targets`"
        losses, cosines = [], []  # of each encoder, (B)
        for name, projector in zip(self.options.encoders, self.projectors, strict=True):
            projected = projector(batch.hidden[0])  # (B, N, D)
            copies = self._copies(targets, name)
            losses.append(
                nt_xent(
                    projected,
                    targets.tokens[name],
                    targets.places,
                    copies,
                    self.options.temperature,
                )
            )
            cosines.append(cosine_similarity(projected, batch.tokens[name]).mean(dim=1))
        loss, cosine = torch.stack(losses).mean(), torch.stack(cosines).mean(dim=0)
        self.log.add(batch.noise_level, fidelity=-batch.error, semantic=cosine)
        metrics = {"alignment": -cosine.detach().mean(), "contrastive": loss.detach()}
        return AlignmentResult(self.options.weight * loss, metrics)

    def _copies(self, targets: GlobalTargets, encoder: str) -> Tensor:
        """Candidates [N,B,G] that are the rollout's own image again: the same row or token."""
        tokens, rows, places = targets.tokens[encoder], targets.rows, targets.places
        identity = token_identity(tokens, self.factors[: tokens.shape[-1]]).T  # (N, G)
        same_row = rows[places, None] == rows  # (B, G)
        return same_row | (identity[:, places, None] == identity[:, None])


def nt_xent(
    projected: Tensor, candidates: Tensor, places: Tensor, copies: Tensor, temperature: float
) -> Tensor:
    """Cross-entropy [B] of each rollout, a mean over tokens, in fp32.

    Args:
        projected: [B,N,D], with gradient.
        candidates: encoder tokens [G,N,D].
        places: [B], the candidate that is each rollout's own image.
        copies: [N,B,G], candidates that are the own image again; they are no negatives.
        temperature: T.
    """
    with torch.autocast(projected.device.type, enabled=False):
        anchors = F.normalize(projected.float(), dim=-1).transpose(0, 1)  # (N, B, D)
        targets = F.normalize(candidates.float(), dim=-1).permute(1, 2, 0)  # (N, D, G)
        logits = anchors @ targets / temperature  # (N, B, G)
        own = places[:, None] == torch.arange(len(candidates), device=places.device)  # (B, G)
        log_likelihood = logits.masked_fill(copies & ~own, -torch.inf).log_softmax(dim=-1)
        index = places[:, None].expand(len(logits), -1, -1)  # (N, B, 1)
        return -log_likelihood.gather(2, index).squeeze(2).mean(dim=0)


def token_identity(tokens: Tensor, factors: Tensor) -> Tensor:
    """A number of each token's bits, int64 [...]: equal for equal tokens [...,D].

    Different tokens have different numbers but for chance. Integers, so that the order of the sum
    does not matter; with `factors` [D] below 2^19 it does not overflow up to D = 8,192.
    """
    bits = tokens.float().contiguous().view(torch.int32).long()
    return (bits * factors).sum(dim=-1)
