"""VRPO: alignment as group-relative policy optimisation of a representation policy (docs/method.md).

After the abstract of Mo and Yun, "Improving Visual Representation Alignment Generation with GRPO" (arXiv:2606.00583),
and GRPO (arXiv:2402.03300, eq. 3) for the group-relative advantage and the clipped surrogate. The policy of state s
puts one von Mises-Fisher distribution on each token, so `log pi(y|s) = kappa * mean_n cos(mu_n, y_n) + const`: the
mean over tokens, like a length-normalised likelihood, keeps kappa independent of the number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vrpo.alignment.advantages import SHARES, advantage_shares, clipped_surrogate, group_advantages
from vrpo.alignment.agreement import WEIGHED, Agreement, Weighing
from vrpo.alignment.base import AlignmentBatch, AlignmentResult, ProjectedAlignment
from vrpo.alignment.diagnostics import NoiseLevelLog, Reduce
from vrpo.alignment.rewards import REWARDS, NoiseLevelStatistics, perceptual_reward
from vrpo.alignment.schedules import schedule_factor

if TYPE_CHECKING:
    from vrpo.config.alignments import RewardsOptions
    from vrpo.config.schedules import ScheduleOptions

Critic = Callable[[Tensor], Tensor]
FORWARD = REWARDS[:-1]  # known in the forward pass; the agreement of gradients only in the backward pass


class VRPO(ProjectedAlignment):
    """`L = -lambda (eta/kappa mean_i S_i + beta/kappa mean_i log pi(y_i|s_i)) - sum_k w_k mean_i z_k,i` (eq. 5).

    `S_i` is the clipped surrogate of the group-relative advantage of `R = sum_k score_k z_k` with the rewards z
    standardised at their noise level (eq. 3, 4); the last sum runs over the rewards with a pathwise weight. With eta = 0,
    beta = 1 and no pathwise reward this is REPA. Where the agreement is among the rewards that score, its gradient
    weighs at h what the first two terms weigh here (eq. 6).
    """

    logged = (*REWARDS, "advantage", "advantage_abs", "weight", "clipped", *SHARES, "kl", *(f"pathwise_{name}" for name in FORWARD))

    def __init__(
        self,
        *,
        rewards: RewardsOptions,
        critics: dict[str, Critic],
        weight: float,
        eta: float,
        eta_schedule: ScheduleOptions,
        beta: float,
        kappa: float,
        clip: float,
        grouping: Literal["noise_level", "image"],
        group_size: int,
        max_advantage: float,
        noise_bins: int,
        statistics_decay: float,
        sigma_floor: float,
        least_rollouts: int,
        old_policy: Literal["none", "ema"],
        **shape: Any,
    ) -> None:
        """Options as in `vrpo.config.alignments.VRPOOptions`; `critics`: a frozen latent critic per encoder, or none when unused."""
        super().__init__(**shape)
        self.weight, self.eta, self.beta, self.kappa, self.clip = weight, eta, beta, kappa, clip
        self.grouping, self.group_size, self.max_advantage = grouping, group_size, max_advantage
        self.needs_old_policy = old_policy == "ema"
        options = [getattr(rewards, name) for name in FORWARD]
        self.has_gradient = [option.pathwise > 0 for option in options]
        self.eta_schedule, self.reward_schedules = eta_schedule, [option.schedule for option in options]
        self.register_buffer("score", torch.tensor([option.score for option in options]), persistent=False)
        self.register_buffer("pathwise", torch.tensor([option.pathwise for option in options]), persistent=False)
        self.critics = critics  # a plain dict: frozen, neither trained, averaged nor saved with the run
        self.statistics = NoiseLevelStatistics(len(REWARDS), noise_bins, statistics_decay, sigma_floor, least_rollouts)
        self.log = NoiseLevelLog(self.logged, noise_bins)
        self.agreement_score = rewards.agreement.score if eta > 0 else 0.0
        self.unused = [name for name in REWARDS if eta == 0 and getattr(rewards, name).score > 0]
        scores = [eta * option.score + option.pathwise for option in options]
        self.used = {name for name, weight in zip(REWARDS, (*scores, self.agreement_score), strict=True) if weight > 0}
        if self.agreement_score or self.agreement is not None:
            weighing = Weighing(self.agreement_score, eta, beta, clip, group_size, max_advantage) if self.agreement_score else None
            self.agreement = Agreement(noise_bins, weighing=weighing)
            self.needs_gate |= weighing is not None

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        cosine = self.cosine(batch.hidden[0], batch.tokens)  # [B], with gradient
        rewards = self._rewards(batch, cosine)  # [3,B], with gradient where pathwise
        mean, inverse_std = self.statistics.moments(batch.noise_level)  # [4,B]
        standardised = (rewards.detach() - mean[:-1]) * inverse_std[:-1]  # eq. 3
        self.statistics.observe(rewards, batch.noise_level)

        factors = self._reward_factors(batch)  # [3]
        scored = ((self.score * factors)[:, None] * standardised).sum(dim=0).float()  # R, [B]
        advantages = group_advantages(scored, self.group_size, self.max_advantage)  # eq. 4
        log_prob = self.kappa * cosine  # eq. 1
        old_log_prob = log_prob.detach() if batch.old_cosine is None else self.kappa * batch.old_cosine
        surrogate, clipped = clipped_surrogate(log_prob, old_log_prob, advantages, self.clip)
        eta = self.eta * schedule_factor(self.eta_schedule, batch.step) if batch.step is not None else self.eta
        factor = self.weight_factor(batch)
        ratio = (log_prob - old_log_prob).detach().exp()
        # eq. 6: where the agreement scores, the cosine alone, and the gate gives its gradient at h the weights beta + eta rho A
        policy = cosine if self.agreement_score else (eta * surrogate + self.beta * log_prob) / self.kappa
        pathwise = (self.pathwise * factors)[:, None] * inverse_std[:-1].float()  # of each reward in the loss, [3,B]
        gain = (pathwise * (rewards - mean[:-1].float())).sum(dim=0).mean()
        loss = -self.weight * (factor * policy).mean() - gain  # eq. 5
        told = {"reward": scored, "mean": mean[-1], "inverse_std": inverse_std[-1], "ratio": ratio, "factor": torch.ones_like(ratio) * factor}

        kl = self.kappa * (1 - cosine.detach())
        by_reward = {name: reward for name, reward in zip(FORWARD, rewards.detach(), strict=True) if name != "perceptual" or self.critics}
        raised = {f"pathwise_{name}": weights for name, weights, kept in zip(FORWARD, pathwise, self.has_gradient, strict=True) if kept}
        by_level = {**by_reward, **raised, "kl": kl}
        metrics = {f"reward_{name}": value.mean() for name, value in by_reward.items()}
        metrics["alignment"] = -cosine.detach().mean()
        if not self.agreement_score:  # else the advantage is known in the backward pass alone, and the gate logs it
            weights = factor * (self.beta + eta * torch.where(clipped, 0.0, ratio * advantages))
            by_level |= {"advantage": advantages, "advantage_abs": advantages.abs(), "weight": weights, "clipped": clipped.float()}
            if self.eta > 0:
                by_level |= dict(zip(SHARES, advantage_shares(advantages, self.max_advantage), strict=True))
            metrics |= {"advantage_abs": advantages.abs().mean(), "clip_fraction": clipped.float().mean()}
        metrics |= {"pathwise_gain": gain.detach(), "kl": kl.mean()}
        self.log.add(batch.noise_level, **by_level)
        return AlignmentResult(loss, metrics, told)

    def warnings(self) -> list[str]:
        """Rewards with a weight that do not vary, and scores that nothing is made of."""
        constant = [REWARDS[index] for index in self.statistics.constant() if REWARDS[index] in self.used]
        return [
            *(f"rewards.{name} has been constant at every noise level so far: its advantage is zero, and it changes nothing" for name in constant),
            *(f"rewards.{name}.score changes nothing: `eta`, the weight of the policy term, is 0" for name in self.unused),
        ]

    def finish_step(self, all_reduce: Reduce, valid: Tensor) -> None:
        """Update the running statistics of the rewards."""
        agreement = None if self.agreement is None else self.agreement.finish_step(all_reduce, valid)
        self.statistics.finish_step(all_reduce, valid, None if agreement is None else agreement[:3])
        if agreement is not None:
            for name, sums in zip(("agreement", *WEIGHED), (agreement[1], *agreement[3:]), strict=False):
                self.log.add_sums(name, torch.stack([agreement[0], sums]))
        self.log.finish_step(all_reduce, valid)

    def _reward_factors(self, batch: AlignmentBatch) -> Tensor:
        """What each reward's weights are multiplied by at this step [3]."""
        if batch.step is None:
            return torch.ones_like(self.score)
        return torch.stack([schedule_factor(schedule, batch.step) for schedule in self.reward_schedules])

    def _rewards(self, batch: AlignmentBatch, cosine: Tensor) -> Tensor:
        """[3,B] in the order of `FORWARD`; a reward that only scores carries no gradient, an unused perceptual one is 0."""
        fidelity = -batch.error
        perceptual = torch.zeros_like(cosine)
        if self.critics:
            with torch.set_grad_enabled(self.has_gradient[1] and torch.is_grad_enabled()):
                x0_hat = batch.x0_hat()
                per_encoder = [perceptual_reward(critic(x0_hat), critic(batch.x0).detach()) for critic in self.critics.values()]
                perceptual = torch.stack(per_encoder).mean(dim=0)
        rewards = [fidelity, perceptual, cosine]
        return torch.stack([reward if kept else reward.detach() for reward, kept in zip(rewards, self.has_gradient, strict=True)])
