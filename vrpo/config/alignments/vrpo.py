"""Options of VRPO (`vrpo/alignment/vrpo.py`, docs/method.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from vrpo.config.alignments.base import NOISE_BINS, ProjectedOptions, SpatialOptions
from vrpo.config.base import Options, option

if TYPE_CHECKING:
    from vrpo.config.training import TrainingOptions

GREATEST_KAPPA = 40  # log rho is kappa x a difference of cosines, at most 2; exp overflows at 88


class RewardOptions(Options):
    """One reward's part in VRPO."""

    score: float = option(
        0.0,
        "weight in the reward whose group-relative advantage weighs alignment (score estimator)",
        ge=0,
    )
    pathwise: float = option(
        0.0,
        "weight in the loss, standardised, with gradient and without lambda (pathwise estimator)",
        ge=0,
    )


class RewardsOptions(Options):
    """VRPO's rewards (docs/method.md, table of rewards)."""

    fidelity: RewardOptions = option(RewardOptions, "minus the denoising error of the rollout")
    perceptual: RewardOptions = option(
        RewardOptions, "cosine between the critic's tokens of estimated and true clean latent"
    )
    semantic: RewardOptions = option(
        RewardOptions, "cosine between projected hidden tokens and encoder tokens"
    )


def _all_rewards() -> RewardsOptions:
    """Every reward scoring, and fidelity and perceptual reward pathwise."""
    return RewardsOptions(
        fidelity=RewardOptions(score=1.0, pathwise=0.1),
        perceptual=RewardOptions(score=1.0, pathwise=0.05),
        semantic=RewardOptions(score=1.0),
    )


class VRPOOptions(ProjectedOptions):
    """VRPO: generative representation policy optimisation (arXiv:2606.00583, abstract).

    The defaults are the full form (docs/method.md) that the benchmark's search chose.
    """

    title: ClassVar[str] = "VRPO"
    loss: ClassVar[str] = "vrpo.alignment.vrpo:VRPO"
    kind: Literal["vrpo"] = option(..., "reward-guided alignment")
    rewards: RewardsOptions = option(
        _all_rewards,
        "weights of the rewards, 0 where not given; default: `score: 1` for each, and "
        "`pathwise: 0.1` for fidelity, `pathwise: 0.05` for perceptual",
    )
    eta: float = option(0.1, "weight of the policy term; 0, an ablation: no advantages", ge=0)
    beta: float = option(
        1.0,
        "weight of the KL anchor to the encoder; `eta: 0`, `beta: 1` without pathwise rewards is "
        "REPA; 0 with `rewards: {semantic: {pathwise: w}}` is the replaced form (docs/method.md)",
        ge=0,
    )
    kappa: float = option(
        1.0,
        "concentration of the policy: log pi(y|s) = kappa * mean_n cos(mu_n, y_n) + const",
        gt=0,
    )
    old_policy: Literal["none", "ema"] = option(
        "none",
        "policy in the ratio: `none`: one on-policy step (rho = 1); `ema`: the averaged network",
    )
    clip: float = option(0.2, "epsilon of the clipped surrogate", gt=0, lt=1)
    grouping: Literal["noise_level", "image"] = option(
        "noise_level", "rollouts of a group: of similar noise level, or of the same image"
    )
    group_size: int = option(8, "G, rollouts in a group; divides the batch", "rollouts", ge=2)
    standardise: bool = option(
        True,
        "divide rewards by their deviation at their noise level, after subtracting the mean there; "
        "false, an ablation: raw rewards",
    )
    statistics_decay: float = option(
        0.99, "decay per step of the running mean and variance of each reward", ge=0, lt=1
    )
    least_rollouts: int = option(
        32,
        "rollouts, decayed as the statistics, after which rewards count at a noise level; "
        "0: two that differ",
        "rollouts",
        ge=0,
    )
    spatial: SpatialOptions | None = option(
        SpatialOptions,
        "iREPA's projector and targets; then `projector_width` is not used; null: REPA's",
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> VRPOOptions:
        rewards = [self.rewards.fidelity, self.rewards.perceptual, self.rewards.semantic]
        for name, value in (("grouping", self.by_image), ("old_policy", self.needs_old_policy)):
            if self.eta == 0 and value:
                raise ValueError(
                    f"`{name}: {getattr(self, name)}` is for the policy term, "
                    f"whose weight `eta` is 0; give `eta` a weight or leave `{name}` out"
                )
        if self.eta > 0 and self.weight == 0:
            raise ValueError(
                "`eta` is the policy term's weight beside lambda, and `weight`, lambda, is zero; "
                "give `weight` a value or set `eta: 0`"
            )
        if self.needs_old_policy and self.kappa > GREATEST_KAPPA:
            raise ValueError(
                f"`kappa` {self.kappa:g} with `old_policy: ema`: "
                f"the ratio of the policies overflows; take at most {GREATEST_KAPPA}"
            )
        if self.eta > 0 and not any(reward.score for reward in rewards):
            raise ValueError(
                "all `rewards.*.score` weights are zero while `eta` > 0; "
                "give one reward a `score` weight or set `eta: 0`"
            )
        pathwise = any(reward.pathwise for reward in rewards)
        if not pathwise and (self.weight == 0 or self.beta == self.eta == 0):
            factors = "`weight`" if self.weight == 0 else "`beta`, `eta`"
            raise ValueError(
                f"{factors} and all `rewards.*.pathwise` weights are zero, "
                "nothing is aligned; use `kind: none` for that"
            )
        return self

    def check(self, training: TrainingOptions) -> None:
        """See the base class."""
        seen = training.batch_size / NOISE_BINS / (1 - self.statistics_decay)
        if self.least_rollouts >= seen:
            raise ValueError(
                f"least_rollouts: {self.least_rollouts} are never reached, a noise level's count "
                f"of rollouts tends to about {seen:.0f} (training.batch_size {training.batch_size} "
                f"/ {NOISE_BINS} noise levels / (1 - statistics_decay)); "
                "take a tenth of that or less"
            )

    @property
    def name(self) -> str:
        """`VRPO` for the full form; else what is left or missing, e.g. `VRPO (fidelity only)`."""
        acting, raw = self._acting(), ["raw rewards"] if not self.standardise else []
        inactive = [name for name in RewardsOptions.model_fields if name not in acting]
        if self.eta > 0:
            notes = [f"no {' or '.join(inactive)} reward"] if inactive else []
        elif not inactive:
            notes = ["no policy term"]
        else:
            notes = [f"{' and '.join(acting)} only" if acting else "no rewards"]
        notes += raw if acting else []
        return f"{self.title} ({', '.join(notes)})" if notes else self.title

    @property
    def missing(self) -> list[str]:
        """Parts of the full form left out (docs/method.md, "What may be called VRPO")."""
        acting = self._acting()
        parts = [] if self.eta > 0 else ["policy term"]
        parts += [f"{name} reward" for name in RewardsOptions.model_fields if name not in acting]
        return parts if self.standardise else [*parts, "standardisation"]

    def _acting(self) -> list[str]:
        """Rewards that are pathwise, or score while there is a policy term."""
        rewards = {name: getattr(self.rewards, name) for name in RewardsOptions.model_fields}
        return [name for name, own in rewards.items() if own.pathwise + self.eta * own.score > 0]

    @property
    def convolution(self) -> SpatialOptions | None:
        """See the base class."""
        return self.spatial

    @property
    def group(self) -> int:
        """See the base class."""
        return self.group_size

    @property
    def by_image(self) -> bool:
        """See the base class."""
        return self.grouping == "image"

    @property
    def by_noise_level(self) -> bool:
        """See the base class."""
        return self.grouping == "noise_level"

    @property
    def needs_critic(self) -> bool:
        """See the base class: the perceptual reward has a weight."""
        return self.rewards.perceptual.score > 0 or self.rewards.perceptual.pathwise > 0

    @property
    def needs_old_policy(self) -> bool:
        """See the base class."""
        return self.old_policy == "ema"
