"""What iREPA changes of REPA: a convolution in the place of the projector, and targets without what all tokens share (Singh et al., arXiv:2512.10794)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SpatialStructure(NamedTuple):
    """Options of both, as `vrpo.config.alignments.SpatialOptions` has them."""

    kernel_size: int
    """Side of the projector's convolution."""
    gamma: float
    """Share of the tokens' mean over the image that is taken off the targets."""


def spatial_normalisation(tokens: Tensor, gamma: float, eps: float = 1e-6) -> Tensor:
    """`(y - gamma mean_n y) / (std_n y + eps)` for each image and channel; tokens [B,N,D], the deviation is unbiased; in fp32."""
    with torch.autocast(tokens.device.type, enabled=False):
        tokens = tokens.float()
        std, mean = torch.std_mean(tokens, dim=1, keepdim=True)  # (B, 1, D)
        return (tokens - gamma * mean) / (std + eps)
