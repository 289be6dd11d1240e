"""VRPO: alignment as group-relative policy optimisation of a representation policy (docs/method.md).

After the abstract of Mo and Yun, "Improving Visual Representation Alignment Generation with GRPO" (arXiv:2606.00583),
and GRPO (arXiv:2402.03300, eq. 3) for the group-relative advantage and the clipped surrogate. The policy of state s
puts one von Mises-Fisher distribution on each token, so `log pi(y|s) = kappa * mean_n cos(mu_n, y_n) + const`: the
mean over tokens, like a length-normalised likelihood, keeps kappa independent of the number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vrpo.alignment.base import AlignmentBatch, AlignmentResult, ProjectedAlignment, Reduce
from vrpo.alignment.rewards import REWARDS, NoiseLevelStatistics, perceptual_reward

if TYPE_CHECKING:
    from vrpo.config.alignments import RewardsOptions

Critic = Callable[[Tensor], Tensor]


def group_advantages(rewards: Tensor, group_size: int, max_advantage: float = 3.0, eps: float = 1e-6) -> Tensor:
    """`A = (R - mean_group) / (std_group + eps)`, clipped to `±max_advantage` (GRPO, section 4.1.2).

    Args:
        rewards: [B], the groups side by side; B is a multiple of `group_size`.
        group_size: G.
        max_advantage: bound of the result; the mean of a group is exactly 0 only where it does not act.
        eps: keeps a group of equal rewards at advantage 0.
    """
    grouped = rewards.view(-1, group_size)
    centred = grouped - grouped.mean(dim=1, keepdim=True)
    std = centred.square().mean(dim=1, keepdim=True).sqrt()
    return (centred / (std + eps)).clamp(-max_advantage, max_advantage).view(-1)


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """`min(rho A, clip(rho, 1-eps, 1+eps) A)` [B] and which rollouts the clip holds [B] (PPO, arXiv:1707.06347, eq. 7)."""
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    return surrogate, clipped * advantages < ratio * advantages


class VRPO(ProjectedAlignment):
    """`L = -lambda (eta/kappa mean_i S_i + beta/kappa mean_i log pi(y_i|s_i)) - sum_k w_k mean_i z_k,i`.

    `S_i` is the clipped surrogate of the group-relative advantage of `R = sum_k score_k z_k` with the rewards z
    standardised at their noise level; the last sum runs over the rewards with a pathwise weight. With eta = 0, beta = 1
    and no pathwise reward this is REPA.
    """

    def __init__(
        self,
        *,
        rewards: RewardsOptions,
        critics: dict[str, Critic],
        weight: float,
        eta: float,
        beta: float,
        kappa: float,
        clip: float,
        grouping: Literal["noise_level", "image"],
        group_size: int,
        max_advantage: float,
        noise_bins: int,
        statistics_decay: float,
        old_policy: Literal["none", "ema"],
        width: int,
        token_widths: dict[str, int],
        depth: int,
        projector_width: int,
    ) -> None:
        """Options as in `vrpo.config.alignments.VRPOOptions`; `critics`: a frozen latent critic per encoder, or none when unused."""
        super().__init__(width=width, token_widths=token_widths, depth=depth, projector_width=projector_width)
        self.weight, self.eta, self.beta, self.kappa, self.clip = weight, eta, beta, kappa, clip
        self.grouping, self.group_size, self.max_advantage = grouping, group_size, max_advantage
        self.needs_old_policy = old_policy == "ema"
        self.has_gradient = [getattr(rewards, name).pathwise > 0 for name in REWARDS]
        self.register_buffer("score", torch.tensor([getattr(rewards, name).score for name in REWARDS]), persistent=False)
        self.register_buffer("pathwise", torch.tensor([getattr(rewards, name).pathwise for name in REWARDS]), persistent=False)
        self.critics = critics  # a plain dict: frozen, neither trained, averaged nor saved with the run
        self.statistics = NoiseLevelStatistics(len(REWARDS), noise_bins, statistics_decay)

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        cosine = self.cosine(batch.hidden[0], batch.tokens)  # [B], with gradient
        rewards = self._rewards(batch, cosine)  # [K,B], with gradient where pathwise
        mean, inverse_std = self.statistics.moments(batch.noise_level)
        standardised = (rewards.detach() - mean) * inverse_std
        self.statistics.observe(rewards, batch.noise_level)

        advantages = group_advantages((self.score[:, None] * standardised).sum(dim=0).float(), self.group_size, self.max_advantage)
        log_prob = self.kappa * cosine
        old_log_prob = log_prob.detach() if batch.old_cosine is None else self.kappa * batch.old_cosine
        surrogate, clipped = clipped_surrogate(log_prob, old_log_prob, advantages, self.clip)
        policy = (self.eta * surrogate.mean() + self.beta * log_prob.mean()) / self.kappa
        gain = (self.pathwise[:, None] * inverse_std.float() * (rewards - mean.float())).sum(dim=0).mean()
        metrics = {f"reward_{name}": value for name, value in zip(REWARDS, rewards.detach().mean(dim=1), strict=True)}
        metrics |= {
            "alignment": -cosine.detach().mean(),
            "advantage_abs": advantages.abs().mean(),
            "clip_fraction": clipped.float().mean(),
            "pathwise_gain": gain.detach(),
        }
        return AlignmentResult(-self.weight * policy - gain, metrics)

    def finish_step(self, all_reduce: Reduce, valid: Tensor) -> None:
        """Update the running statistics of the rewards."""
        self.statistics.finish_step(all_reduce, valid)

    def _rewards(self, batch: AlignmentBatch, cosine: Tensor) -> Tensor:
        """[K,B] in the order of `REWARDS`; a reward that only scores carries no gradient, an unused perceptual one is 0."""
        fidelity = -batch.error
        perceptual = torch.zeros_like(cosine)
        if self.critics:
            with torch.set_grad_enabled(self.has_gradient[1] and torch.is_grad_enabled()):
                x0_hat = batch.x0_hat()
                per_encoder = [perceptual_reward(critic(x0_hat), critic(batch.x0).detach()) for critic in self.critics.values()]
                perceptual = torch.stack(per_encoder).mean(dim=0)
        rewards = [fidelity, perceptual, cosine]
        return torch.stack([reward if kept else reward.detach() for reward, kept in zip(rewards, self.has_gradient, strict=True)])
