"""VRPO: group-relative policy optimisation of a representation policy (docs/method.md).

After the abstract of Mo and Yun, "Improving Visual Representation Alignment Generation with GRPO"
(arXiv:2606.00583), and GRPO (arXiv:2402.03300, eq. 3) for the group-relative advantage and the
clipped surrogate. The policy of state s puts one von Mises-Fisher distribution on each token, so
`log pi(y|s) = kappa * mean_n cos(mu_n, y_n) + const`: the mean over tokens, like a
length-normalised likelihood, keeps kappa independent of the number of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vrpo.alignment.advantages import SHARES, advantage_shares, clipped_surrogate, group_advantages
from vrpo.alignment.base import (
    AlignmentBatch,
    AlignmentContext,
    AlignmentResult,
    ProjectedAlignment,
)
from vrpo.alignment.diagnostics import Reduce
from vrpo.alignment.moments import Moments
from vrpo.alignment.rewards import REWARDS, NoiseLevelStatistics, perceptual_reward
from vrpo.config.alignments.vrpo import RewardOptions, VRPOOptions


class VRPO(ProjectedAlignment):
    """`L = -lambda/kappa mean_i (eta S_i + beta log pi(y_i|s_i)) - sum_k w_k mean_i z_k,i`.

    Equation 5: `S_i` is the clipped surrogate of the group-relative advantage of
    `R = sum_k score_k z_k` with the rewards z standardised at their noise level (eq. 3, 4); the
    last sum runs over the rewards with a pathwise weight. With eta = 0, beta = 1 and no pathwise
    reward this is REPA; with beta = 0 and a pathwise semantic reward no static term is left.
    """

    logged = (
        *REWARDS,
        *("agreement", "advantage", "advantage_abs", "weight", "clipped", *SHARES, "kl"),
        *(f"pathwise_{name}" for name in REWARDS),
    )

    def __init__(self, options: VRPOOptions, context: AlignmentContext) -> None:
        """See the base class."""
        super().__init__(options, context)
        rewards = self._weights()
        for name in ("score", "pathwise"):
            weights = torch.tensor([getattr(reward, name) for reward in rewards.values()])
            self.register_buffer(name, weights, persistent=False)
        self.statistics = NoiseLevelStatistics(
            len(REWARDS), decay=options.statistics_decay, least=options.least_rollouts
        )

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        options = self.options
        cosine = self.cosine(batch.hidden[0], batch.tokens)  # (B), with gradient
        rewards = self._rewards(batch, cosine)  # (3, B), with gradient where pathwise
        mean, inverse_std = self._moments(batch.noise_level)  # (3, B)
        standardised = (rewards.detach() - mean) * inverse_std  # eq. 3
        self.statistics.observe(rewards, batch.noise_level)

        scored = (self.score[:, None] * standardised).sum(dim=0).float()  # R, (B)
        advantages = group_advantages(scored, options.group_size)  # eq. 4
        log_prob = options.kappa * cosine  # eq. 1
        on_policy = batch.old_cosine is None
        old_log_prob = log_prob.detach() if on_policy else options.kappa * batch.old_cosine
        surrogate, clipped = clipped_surrogate(log_prob, old_log_prob, advantages, options.clip)
        policy = (options.eta * surrogate + options.beta * log_prob) / options.kappa
        pathwise = self.pathwise[:, None] * inverse_std.float()  # of each reward's value, (3, B)
        gain = (pathwise * (rewards - mean.float())).sum(dim=0).mean()
        loss = -options.weight * policy.mean() - gain  # eq. 5

        ratio = (log_prob - old_log_prob).detach().exp()
        weights = options.beta + options.eta * torch.where(clipped, 0.0, ratio * advantages)
        kl = options.kappa * (1 - cosine.detach())
        by_level = {"advantage": advantages, "advantage_abs": advantages.abs(), "weight": weights}
        by_level |= {"clipped": clipped.float(), "kl": kl}
        metrics = {}
        for index, (name, reward) in enumerate(self._weights().items()):
            if name != "perceptual" or self.context.critics:
                by_level[name] = rewards[index].detach()
                metrics[f"reward_{name}"] = by_level[name].mean()
            if reward.pathwise > 0:
                by_level[f"pathwise_{name}"] = pathwise[index]
        if options.eta > 0:
            by_level |= dict(zip(SHARES, advantage_shares(advantages), strict=True))
        self.log.add(batch.noise_level, **by_level)
        metrics |= {
            "alignment": -cosine.detach().mean(),
            "advantage_abs": advantages.abs().mean(),
            "clip_fraction": clipped.float().mean(),
            "pathwise_gain": gain.detach(),
            "kl": kl.mean(),
        }
        return AlignmentResult(loss, metrics)

    def warnings(self) -> list[str]:
        """Weighted rewards that never vary, and scores without effect."""
        weights, eta = list(self._weights().items()), self.options.eta
        constant = [weights[index] for index in self.statistics.constant()]
        return [
            *(
                f"rewards.{name} has been constant at every noise level so far: "
                "its advantage is zero, and it changes nothing"
                for name, reward in constant
                if eta * reward.score + reward.pathwise > 0
            ),
            *(
                f"rewards.{name}.score changes nothing: `eta`, the weight of the policy term, is 0"
                for name, reward in weights
                if eta == 0 and reward.score > 0
            ),
        ]

    def reward_moments(self) -> dict[str, Moments]:
        """See the base class."""
        mean, inverse_std = (values.tolist() for values in self.statistics.by_level())
        rows = zip(REWARDS, mean, inverse_std, strict=True)
        return {name: Moments(*of_reward) for name, *of_reward in rows}

    def finish_step(self, all_reduce: Reduce, valid: Tensor) -> None:
        """Update the running statistics of the rewards."""
        self.statistics.finish_step(all_reduce, valid)
        super().finish_step(all_reduce, valid)

    def _moments(self, noise_level: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and 1 / standard deviation of the rewards at their noise level; raw: 0 and 1."""
        if self.options.standardise:
            return self.statistics.moments(noise_level)
        zero = noise_level.new_zeros(len(REWARDS), len(noise_level), dtype=torch.float64)
        return zero, torch.ones_like(zero)

    def _weights(self) -> dict[str, RewardOptions]:
        return {name: getattr(self.options.rewards, name) for name in REWARDS}

    def _rewards(self, batch: AlignmentBatch, cosine: Tensor) -> Tensor:
        """Rewards [3,B], with gradient where pathwise; an unused perceptual one is 0."""
        pathwise = [reward.pathwise > 0 for reward in self._weights().values()]
        perceptual, critics = torch.zeros_like(cosine), self.context.critics
        if critics:
            with torch.set_grad_enabled(pathwise[1] and torch.is_grad_enabled()):
                x0_hat = batch.x0_hat()
                per_encoder = [
                    perceptual_reward(critic(x0_hat), critic(batch.x0).detach())
                    for critic in critics.values()
                ]
                perceptual = torch.stack(per_encoder).mean(dim=0)
        rewards = zip((-batch.error, perceptual, cosine), pathwise, strict=True)
        return torch.stack([reward if kept else reward.detach() for reward, kept in rewards])
