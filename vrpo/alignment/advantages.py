"""GRPO's advantages and PPO's clipped surrogate (docs/method.md, eq. 4 and 5)."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ADVANTAGE = 3.0
"""Bound of advantages: three deviations, so that one outlier does not outweigh its group."""
SHARES = tuple(f"advantage_{part}" for part in range(1, 7))
"""Shares of the rollouts, by the sixth of the range of advantages, from below."""


def group_advantages(
    rewards: Tensor, group_size: int, max_advantage: float = MAX_ADVANTAGE, eps: float = 1e-6
) -> Tensor:
    """`A = (R - mean_group) / (std_group + eps)`, clipped to `±max_advantage` (eq. 4).

    After GRPO (arXiv:2402.03300, section 4.1.2).

    Args:
        rewards: [B], the groups side by side; B is a multiple of `group_size`.
        group_size: G.
        max_advantage: bound of the result; where it acts, a group's mean is not exactly 0.
        eps: keeps a group of equal rewards at advantage 0.
    """
    grouped = rewards.double().view(
        -1, group_size
    )  # peers may be close to each other and far from 0
    centred = grouped - grouped.mean(dim=1, keepdim=True)
    std = centred.square().mean(dim=1, keepdim=True).sqrt()
    return (centred / (std + eps)).clamp(-max_advantage, max_advantage).view(-1).to(rewards.dtype)


def advantage_shares(advantages: Tensor) -> Tensor:
    """Distribution of advantages [B] over `SHARES`: 1 for the sixth of each, else 0, [6,B]."""
    part = ((advantages / MAX_ADVANTAGE + 1) / 2 * len(SHARES)).long().clamp(0, len(SHARES) - 1)
    return (part == torch.arange(len(SHARES), device=part.device)[:, None]).float()


def clipped_surrogate(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """`min(rho A, clip(rho, 1-eps, 1+eps) A)` [B], and which rollouts are clipped [B].

    PPO, arXiv:1707.06347, eq. 7.
    """
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    return surrogate, clipped * advantages < ratio * advantages
