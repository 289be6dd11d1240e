"""Targets of iREPA: tokens without what all tokens share (Singh et al., arXiv:2512.10794)."""

from __future__ import annotations

import torch
from torch import Tensor


def spatial_normalisation(tokens: Tensor, gamma: float, eps: float = 1e-6) -> Tensor:
    """`(y - gamma mean_n y) / (std_n y + eps)` of each image and channel; tokens [B,N,D], in fp32.

    The deviation is unbiased.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        tokens = tokens.float()
        std, mean = torch.std_mean(tokens, dim=1, keepdim=True)  # (B, 1, D)
        return (tokens - gamma * mean) / (std + eps)
