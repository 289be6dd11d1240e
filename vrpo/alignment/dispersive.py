"""Dispersive loss (Wang and He, arXiv:2506.09027), in its InfoNCE form with squared distances.

It is a contrastive loss without positive pairs: hidden tokens of different rollouts repel each
other. There is no encoder and no projector.

The official code takes the mean over the pairs of one device's batch, 16 rollouts in the paper, so
its loss depends on the number of devices. Here groups of that size stay together, and the loss is
their mean: a function of the global batch alone. A group of the whole batch needs one micro-batch,
because all its hidden tokens carry gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vrpo.alignment.base import Alignment, AlignmentBatch, AlignmentResult


class Dispersive(Alignment):
    """`L = lambda * mean_groups log(1/G^2 sum_ij exp(-|h_i - h_j|^2 / (N W T)))`, in fp32.

    `h_i` are all hidden tokens of rollout i, and the sum includes i = j. Squared
    distances are divided by their N W numbers, as in the official code.
    """

    logged = (*Alignment.logged, "agreement")

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        options = self.options
        (hidden,) = batch.hidden
        with torch.autocast(hidden.device.type, enabled=False):
            groups = hidden.float().flatten(1).unflatten(0, (-1, options.group))  # (K, G, N W)
            logits = -squared_distances(groups) / options.temperature  # (K, G, G)
            loss = logits.flatten(1).logsumexp(dim=1).mean() - 2 * math.log(options.group)
        self.log.add(batch.noise_level, fidelity=-batch.error)
        return AlignmentResult(options.weight * loss, {"alignment": loss.detach()})


def squared_distances(vectors: Tensor) -> Tensor:
    """Mean squared differences [K,G,G] of each pair of the vectors [K,G,D] of a group.

    By scalar products of centred vectors, so that no tensor has G x G x D numbers.
    """
    centred = vectors - vectors.mean(dim=1, keepdim=True)
    products = centred @ centred.transpose(1, 2) / vectors.shape[-1]  # (K, G, G)
    squares = products.diagonal(dim1=1, dim2=2)  # (K, G)
    return (squares[:, :, None] + squares[:, None] - 2 * products).clamp_min(0)
