"""Relational alignment: REPA, and the cosines between the tokens of one image.

After sREPA (Xu et al., arXiv:2605.16949), of which we could read the abstract alone: the equation
and its weight are those that a public reimplementation states (its equation 6, squared errors).
SARA (arXiv:2503.08253) aligns the same matrices, beside a discriminator that is left out here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vrpo.alignment.base import (
    AlignmentBatch,
    AlignmentContext,
    AlignmentResult,
    ProjectedAlignment,
    cosine_similarity,
)
from vrpo.config.alignments.relational import RelationalOptions
from vrpo.errors import UserError


class Relational(ProjectedAlignment):
    """`L = -lambda mean_n cos(p_n, y_n) + lambda_R mean_nm (cos(p_n, p_m) - cos(y_n, y_m))^2`.

    `p` are the projected hidden tokens, `y` the encoder's; the second mean is over different n, m.
    With several encoders, both terms are means over them.
    """

    def __init__(self, options: RelationalOptions, context: AlignmentContext) -> None:
        """See the base class.

        Raises:
            UserError: an encoder gives a single token.
        """
        super().__init__(options, context)
        for name, (tokens, _) in context.tokens.items():
            if tokens < 2:
                raise UserError(
                    f"encoders.{name}: gives one token an image, a relational alignment compares "
                    "tokens with each other; choose a smaller patch, or `kind: repa`"
                )

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        options = self.options
        cosines, errors = [], []  # of each encoder, (B)
        for name, projector in zip(options.encoders, self.projectors, strict=True):
            projected, target = projector(batch.hidden[0]), batch.tokens[name]  # (B, N, D)
            cosines.append(cosine_similarity(projected, target).mean(dim=1))
            errors.append(relation_error(projected, target))
        cosine, error = torch.stack(cosines).mean(dim=0), torch.stack(errors).mean()
        self.log.add(batch.noise_level, fidelity=-batch.error, semantic=cosine)
        loss = options.relation_weight * error - options.weight * cosine.mean()
        metrics = {"alignment": -cosine.detach().mean(), "relations": error.detach()}
        return AlignmentResult(loss, metrics)


def relation_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference [B] of cosines between different tokens of [B,N,D], in fp32."""
    with torch.autocast(a.device.type, enabled=False):
        difference = _relations(a) - _relations(b)  # (B, N, N)
        N = a.shape[1]
        itself = torch.eye(N, dtype=torch.bool, device=a.device)
        return difference.square().masked_fill(itself, 0).sum(dim=(1, 2)) / (N * (N - 1))


def _relations(tokens: Tensor) -> Tensor:
    unit = F.normalize(tokens.float(), dim=-1)
    return unit @ unit.transpose(1, 2)
