"""SRA: self-representation alignment (Jiang et al., arXiv:2505.02831).

Hidden tokens of an early block learn those of a later block of the averaged network, which sees the
same latent, noise and label at a lower noise level. There is no encoder. The averaged network runs
up to that block, without gradient.

The official code lowers lambda from epoch 150 on (step 750,000 at 256 images); here it is constant.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from vrpo.alignment.base import Alignment, AlignmentBatch, AlignmentContext, AlignmentResult
from vrpo.config.alignments.sra import SRAOptions
from vrpo.models.projector import SelfProjector


class SRA(Alignment):
    """`L = lambda * mean smooth_l1(projector(h_t), h'_{t-k})`, `k ~ U(0, noise_gap)`, in fp32.

    `h'` are the averaged network's tokens. The mean is over tokens and channels; smooth L1 is
    `d^2 / (2 beta)` below beta and `d - beta / 2` above.
    """

    logged = (*Alignment.logged, "agreement")

    def __init__(self, options: SRAOptions, context: AlignmentContext) -> None:
        """See the base class."""
        super().__init__(options, context)
        self.projector = SelfProjector(context.width)

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        options, target = self.options, batch.cleaner_hidden
        assert target is not None, "the trainer gives it where `cleaner_target`"
        projected = self.projector(batch.hidden[0])  # (B, N, W)
        with torch.autocast(projected.device.type, enabled=False):
            loss = F.smooth_l1_loss(projected.float(), target.float(), beta=options.beta)
        self.log.add(batch.noise_level, fidelity=-batch.error)
        return AlignmentResult(options.weight * loss, {"alignment": loss.detach()})
