"""Options of the alignment losses: none, REPA, VRPO, iREPA, HASTE, and one's own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vrpo.config.base import Ascending, Names, Options, option
from vrpo.config.schedules import ScheduleOptions

GREATEST_KAPPA = 40  # the log of the ratio is kappa times a difference of cosines, at most 2; exp overflows in fp32 beyond 88


class NoAlignment(Options):
    """Plain SiT or DiT: the denoising loss alone."""

    kind: Literal["none"] = option(..., "no alignment")


class AlignmentOptions(Options):
    """What all alignments share."""

    encoders: Names = option(..., "encoders (keys of `encoders`) whose tokens are the targets; several are averaged, as in REPA", min_length=1)
    depth: int = option(8, "hidden tokens are taken after this block; REPA: 8, for B 4 (arXiv:2410.06940, section 4 and appendix)", "blocks", ge=1)
    weight: float = option(0.5, "lambda, the weight of alignment beside the denoising loss; REPA: 0.5", ge=0)
    measure_agreement: bool = option(
        False, "log the cosine between the alignment's and the denoising's gradient at the hidden tokens, by noise level (one pass over them more)"
    )


def require_weight(options: AlignmentOptions) -> None:
    """Refuse an alignment of which weight 0 leaves nothing."""
    if options.weight == 0:
        raise ValueError("`weight` is zero, nothing is aligned; use `kind: none` for that")


class ProjectedOptions(AlignmentOptions):
    """Alignments whose projector is REPA's MLP."""

    projector_width: int = option(2048, "hidden width of the projector's three-layer MLP; REPA: 2048", ge=1)


class SpatialOptions(Options):
    """What iREPA changes of REPA: a convolutional projector and spatially normalised targets (arXiv:2512.10794)."""

    kernel_size: Literal[1, 3, 5, 7] = option(3, "side of the projector's convolution; the paper: 3, its latent diffusion code: 1")
    gamma: float = option(0.6, "share of the tokens' mean over the image that is taken off the targets; iREPA's latent diffusion code: 0.6", ge=0, le=1)


class ScheduledOptions(AlignmentOptions):
    """Alignments whose weight can change in the course of the training."""

    weight_schedule: ScheduleOptions = option(ScheduleOptions, "factor of `weight` (lambda), step by step")


class REPAOptions(ScheduledOptions, ProjectedOptions):
    """REPA: the mean negative cosine between projected hidden tokens and encoder tokens (arXiv:2410.06940, eq. 6)."""

    kind: Literal["repa"] = option(..., "static alignment")

    @model_validator(mode="after")
    def _something_to_do(self) -> REPAOptions:
        require_weight(self)
        return self


class RewardOptions(Options):
    """One reward's part in VRPO."""

    score: float = option(0.0, "weight in the reward whose group-relative advantage weighs the alignment (score estimator)", ge=0)
    pathwise: float = option(0.0, "weight of its standardised value in the loss, with gradient (pathwise estimator); not multiplied by lambda", ge=0)
    schedule: ScheduleOptions = option(ScheduleOptions, "factor of both weights, step by step; not `adaptive`")


class AgreementOptions(Options):
    """The agreement's part in VRPO: it is known in the backward pass, so it can weigh, and has no gradient of its own."""

    score: float = option(0.0, "weight in the reward whose group-relative advantage weighs the alignment (score estimator)", ge=0)


class RewardsOptions(Options):
    """VRPO's rewards (docs/method.md, table of rewards)."""

    fidelity: RewardOptions = option(RewardOptions, "minus the denoising error of the rollout")
    perceptual: RewardOptions = option(RewardOptions, "cosine between the critic's tokens of the estimated and of the true clean latent")
    semantic: RewardOptions = option(RewardOptions, "cosine between projected hidden tokens and encoder tokens")
    agreement: AgreementOptions = option(AgreementOptions, "cosine between the alignment's and the denoising's gradient at the hidden tokens")


class VRPOOptions(ScheduledOptions, ProjectedOptions):
    """VRPO: generative representation policy optimisation (arXiv:2606.00583, abstract; docs/method.md)."""

    kind: Literal["vrpo"] = option(..., "reward-guided alignment")
    rewards: RewardsOptions = option(
        lambda: RewardsOptions(fidelity=RewardOptions(pathwise=0.05)),
        "weights of the rewards, all of them: what is not given is 0. Without it: `fidelity: {pathwise: 0.05}`, as the method benchmark's rule gave",
    )
    eta: float = option(0.0, "weight of the policy term; 0: no rollout's advantage is used, as the method benchmark's rule gave (docs/methods.md)", ge=0)
    eta_schedule: ScheduleOptions = option(ScheduleOptions, "factor of `eta`, step by step; not `adaptive`")
    beta: float = option(1.0, "weight of the KL anchor to the encoder's representation; eta 0 and beta 1 without pathwise rewards is REPA", ge=0)
    kappa: float = option(1.0, "concentration of the representation policy: log pi(y|s) = kappa * mean_n cos(mu_n, y_n) + const", gt=0)
    old_policy: Literal["none", "ema"] = option(
        "none", "policy that the ratio compares with: `none` is one on-policy step (rho = 1), `ema` the averaged network"
    )
    clip: float = option(0.2, "epsilon of the clipped surrogate", gt=0, lt=1)
    grouping: Literal["noise_level", "image"] = option("noise_level", "groups are `group_size` rollouts of similar noise level, or of the same image")
    group_size: int = option(8, "G, rollouts in a group; divides the batch", "rollouts", ge=2)
    max_advantage: float = option(3.0, "advantages are clipped to plus or minus this", gt=0)
    noise_bins: int = option(20, "bins over the noise level in which rewards are standardised", ge=1)
    statistics_decay: float = option(0.99, "decay per step of the running mean and variance of each reward", ge=0, lt=1)
    sigma_floor: float = option(
        0.0, "least standard deviation by which a reward is divided at any noise level, as a share of its greatest over the noise levels", ge=0, le=1
    )
    least_rollouts: int = option(
        0, "rollouts, decayed as the statistics are, that a noise level must have seen before rewards count there; 0: any two that differ", "rollouts", ge=0
    )
    spatial: SpatialOptions | None = option(None, "iREPA's projector and targets in the place of REPA's, whose `projector_width` is then not used")

    @model_validator(mode="after")
    def _something_to_do(self) -> VRPOOptions:
        rewards = [self.rewards.fidelity, self.rewards.perceptual, self.rewards.semantic]
        if any(schedule.kind == "adaptive" for schedule in [self.eta_schedule, *(reward.schedule for reward in rewards)]):
            raise ValueError("`adaptive` is a schedule of `weight` alone; choose another kind for `eta_schedule` and `rewards.*.schedule`")
        if self.eta > 0 and self.rewards.agreement.score and self.rewards.semantic.pathwise:
            raise ValueError(
                "`rewards.agreement.score` weighs the alignment's gradient, of which `rewards.semantic.pathwise` would be part; set one of the two to 0"
            )
        if self.eta > 0 and self.rewards.agreement.score and self.eta_schedule.kind != "constant":
            raise ValueError("`rewards.agreement.score` with an `eta_schedule` is not supported; leave `eta_schedule` constant")
        for name, value, plain in (("grouping", self.grouping, "noise_level"), ("old_policy", self.old_policy, "none")):
            if self.eta == 0 and value != plain:
                raise ValueError(f"`{name}: {value}` is for the policy term, whose weight `eta` is 0; give `eta` a weight or leave `{name}` out")
        if self.eta > 0 and self.weight == 0:
            raise ValueError("`eta` is the policy term's weight beside lambda, and `weight`, lambda, is zero; give `weight` a value or set `eta: 0`")
        if self.old_policy == "ema" and self.kappa > GREATEST_KAPPA:
            raise ValueError(f"`kappa` {self.kappa:g} with `old_policy: ema`: the ratio of the policies overflows; take at most {GREATEST_KAPPA}")
        if self.eta > 0 and not any(reward.score for reward in [*rewards, self.rewards.agreement]):
            raise ValueError("all `rewards.*.score` weights are zero while `eta` > 0; give one reward a `score` weight or set `eta: 0`")
        if not any(reward.pathwise for reward in rewards):
            if self.weight == 0:
                raise ValueError("`weight` and all `rewards.*.pathwise` weights are zero, nothing is aligned; use `kind: none` for that")
            if self.beta == 0 and self.eta == 0:
                raise ValueError("`beta`, `eta` and all `rewards.*.pathwise` weights are zero, nothing is aligned; use `kind: none` for that")
        return self

    @property
    def needs_critic(self) -> bool:
        """Whether the perceptual reward, and so the latent critic, is used."""
        return self.rewards.perceptual.score > 0 or self.rewards.perceptual.pathwise > 0


class IREPAOptions(SpatialOptions, ScheduledOptions):
    """iREPA: REPA with a convolutional projector and spatially normalised targets (arXiv:2512.10794)."""

    kind: Literal["irepa"] = option(..., "alignment of spatial structure")
    weight: float = option(1.0, "lambda, the weight of alignment beside the denoising loss; iREPA's code: 1", ge=0)

    @property
    def spatial(self) -> SpatialOptions:
        """As VRPO's option of this name."""
        return self

    @model_validator(mode="after")
    def _something_to_do(self) -> IREPAOptions:
        require_weight(self)
        return self


class HASTEOptions(ProjectedOptions):
    """HASTE: REPA and attention distillation, both stopped at one step (arXiv:2505.16792)."""

    kind: Literal["haste"] = option(..., "alignment of tokens and attention maps, with a stop")
    attention_weight: float = option(0.5, "weight of the cross-entropy between attention maps; HASTE's code: 0.5", ge=0)
    attention_blocks: Ascending = option(
        lambda: [5, 6, 7, 8],
        "blocks whose attention maps are aligned, in ascending order, one for each of `encoders.<e>.attention`; HASTE: 5 to 8 of XL with 9 to 12 of DINOv2-B",
        "blocks",
        min_length=1,
    )
    stop_step: int = option(250_000, "from this step on nothing is aligned; HASTE: 250,000 for XL", "steps", ge=0)

    @model_validator(mode="after")
    def _something_to_do(self) -> HASTEOptions:
        if self.weight == 0 and self.attention_weight == 0:
            raise ValueError("`weight` and `attention_weight` are zero, nothing is aligned; use `kind: none` for that")
        return self


class CustomOptions(ScheduledOptions, ProjectedOptions):
    """An alignment loss of one's own, in a module beside the Snakefile (README, "Adding an alignment loss")."""

    kind: Literal["custom"] = option(..., "a loss of one's own")
    loss: str = option(..., "`module:Class`, a subclass of `vrpo.alignment.base.ProjectedAlignment`", pattern=r"^[\w.]+:\w+$")
    arguments: dict[str, Any] = option(dict, "further keyword arguments of the class")


AnyAlignment = Annotated[NoAlignment | REPAOptions | VRPOOptions | IREPAOptions | HASTEOptions | CustomOptions, Field(discriminator="kind")]
