"""VRPO's rewards, standardised at their noise level (docs/method.md, "Rewards")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vrpo.alignment.base import cosine_similarity
from vrpo.alignment.diagnostics import Reduce, noise_level_bin
from vrpo.config.alignments.base import NOISE_BINS

REWARDS = ("fidelity", "perceptual", "semantic")


def perceptual_reward(critic_tokens_hat: Tensor, critic_tokens: Tensor) -> Tensor:
    """`mean_n cos(E(x0_hat)_n, E(x0)_n)` [B].

    Args:
        critic_tokens_hat: the critic's tokens [B,N,D] of the estimated clean latent.
        critic_tokens: those of the true one.
    """
    return cosine_similarity(critic_tokens_hat, critic_tokens).mean(dim=1)


class NoiseLevelStatistics(nn.Module):
    """Running mean and variance of K rewards in bins over the noise level.

    Exponential moving sums of counts, values and squares, in float64 and weighted by counts: the
    first steps are unbiased, and a batch split over ranks or micro-batches gives the sums of the
    whole. `moments` are from before the present step. Where a bin has seen nothing, or a reward
    never varied, 1 / std is 0, and so is the standardised reward.
    """

    def __init__(
        self, rewards: int, bins: int = NOISE_BINS, decay: float = 0.99, least: int = 0
    ) -> None:
        """An empty record.

        Args:
            rewards: K.
            bins: over the noise level.
            decay: per optimizer step.
            least: rollouts, decayed as the sums are, that a bin must have seen before it counts.
        """
        super().__init__()
        self.bins, self.decay, self.least = bins, decay, least
        self.register_buffer("sums", torch.zeros(3, rewards, bins, dtype=torch.float64))
        self.register_buffer("pending", torch.zeros(3, rewards, bins, dtype=torch.float64))

    def moments(self, noise_level: Tensor) -> tuple[Tensor, Tensor]:
        """Running mean and 1 / standard deviation, each [K,B] in float64.

        1 / std is 0 where it is unknown or the reward is constant.
        """
        mean, variance, varies = self._by_bin()
        known = varies & (self.sums[0] >= (1 - self.decay) * self.least)
        inverse_std = torch.where(known, variance.clamp_min(1e-30).rsqrt(), 0.0)
        index = noise_level_bin(noise_level, self.bins)
        return mean[:, index], inverse_std[:, index]

    def constant(self) -> list[int]:
        """Rewards that were seen and never varied: they give no advantage and no gradient."""
        seen, varied = self.sums[0].sum(dim=1) > 0, self._by_bin()[2].any(dim=1)
        return torch.nonzero(seen & ~varied).flatten().tolist()

    def by_level(self) -> tuple[Tensor, Tensor]:
        """`moments` in all bins, each [K,bins]."""
        centres = (torch.arange(self.bins, device=self.sums.device) + 0.5) / self.bins
        return self.moments(centres)

    def _by_bin(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and whether that is more than rounding, [K,bins] each."""
        count, total, squares = self.sums  # (K, bins) each
        mean = total / count.clamp_min(1e-12)
        mean_square = squares / count.clamp_min(1e-12)
        variance = mean_square - mean.square()
        varies = variance > 1e-12 * mean_square  # below that, it is rounding of fp32 rewards
        return mean, variance, (count > 0) & varies

    def observe(self, rewards: Tensor, noise_level: Tensor) -> None:
        """Add the rewards [K,B] of a micro-batch to the present step."""
        values = rewards.detach().double()
        index = noise_level_bin(noise_level, self.bins).expand(3, len(values), -1)
        powers = torch.stack([torch.ones_like(values), values, values.square()])  # (3, K, B)
        self.pending.scatter_add_(2, index, powers)

    def finish_step(self, all_reduce: Reduce, valid: Tensor) -> None:
        """Add the present step's rewards, over all ranks, to the running sums; skip a bad step."""
        pending = self.decay * self.sums + (1 - self.decay) * all_reduce(self.pending.clone())
        self.sums.copy_(torch.where(valid, pending, self.sums))
        self.pending.zero_()
