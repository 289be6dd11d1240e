"""VRPO's rewards, standardised at their noise level (docs/method.md, "Rewards")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vrpo.alignment.base import Reduce, cosine_similarity

REWARDS = ("fidelity", "perceptual", "semantic")


def perceptual_reward(critic_tokens_hat: Tensor, critic_tokens: Tensor) -> Tensor:
    """`mean_n cos(E(x0_hat)_n, E(x0)_n)` [B] from the critic's tokens [B,N,D] of the estimated and the true clean latent."""
    return cosine_similarity(critic_tokens_hat, critic_tokens).mean(dim=1)


class NoiseLevelStatistics(nn.Module):
    """Running mean and variance of K rewards in bins over the noise level.

    Exponential moving sums of counts, values and squares, in float64 and weighted by counts: the first steps are
    unbiased, and a batch split over ranks or micro-batches gives the sums of the whole. `moments` are what is known
    before the present step. Where a bin has seen nothing, or a reward never varied, 1 / std is 0 and so is the
    standardised reward: nothing is known to be better than expected.
    """

    def __init__(self, rewards: int, bins: int = 20, decay: float = 0.99) -> None:
        """K = `rewards`; `decay` per optimiser step."""
        super().__init__()
        self.bins, self.decay = bins, decay
        self.register_buffer("sums", torch.zeros(3, rewards, bins, dtype=torch.float64))
        self.register_buffer("pending", torch.zeros(3, rewards, bins, dtype=torch.float64))

    def bin_of(self, noise_level: Tensor) -> Tensor:
        """Bin index [B] of each noise level in [0, 1]."""
        return (noise_level * self.bins).long().clamp(0, self.bins - 1)

    def moments(self, noise_level: Tensor) -> tuple[Tensor, Tensor]:
        """Running mean and 1 / standard deviation, [K,B] each in float64; 1 / std is 0 where unknown or constant."""
        count, total, squares = self.sums[:, :, self.bin_of(noise_level)]
        mean = total / count.clamp_min(1e-12)
        mean_square = squares / count.clamp_min(1e-12)
        variance = mean_square - mean.square()
        known = (count > 0) & (variance > 1e-12 * mean_square)  # below that, the difference is rounding of fp32 rewards
        return mean, torch.where(known, variance.clamp_min(1e-30).rsqrt(), 0.0)

    def observe(self, rewards: Tensor, noise_level: Tensor) -> None:
        """Add rewards [K,B] of a micro-batch to the present step."""
        values = rewards.detach().double()
        index = self.bin_of(noise_level).expand(len(values), -1)
        self.pending.scatter_add_(2, index.expand(3, -1, -1), torch.stack([torch.ones_like(values), values, values.square()]))

    def finish_step(self, all_reduce: Reduce, valid: Tensor) -> None:
        """Take the present step's rewards, summed over ranks, into the running sums; a skipped step is forgotten."""
        pending = all_reduce(self.pending.clone())
        self.sums.copy_(torch.where(valid, self.decay * self.sums + (1 - self.decay) * pending, self.sums))
        self.pending.zero_()
