"""Options that alignments share, and the properties that the pipeline asks of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from vrpo.config.base import Names, Options, option

if TYPE_CHECKING:
    from vrpo.config.training import TrainingOptions

NOISE_BINS = 20  # over the noise level, of what is logged and of the statistics of rewards


class SpatialOptions(Options):
    """Convolutional projector and spatially normalized targets of iREPA (arXiv:2512.10794)."""

    kernel_size: Literal[1, 3, 5, 7] = option(
        3, "side of the projector's convolution; the paper: 3, its latent diffusion code: 1"
    )
    gamma: float = option(
        0.6,
        "share of the mean token subtracted from the targets; iREPA's latent diffusion code: 0.6",
        ge=0,
        le=1,
    )


class CleanerTarget(NamedTuple):
    """Hidden tokens of the averaged network, at less noise, that an alignment has as targets."""

    depth: int
    """Block, counted from 1, after which they are taken."""
    noise_gap: float
    """Bound of the difference of noise levels, which is uniform between 0 and it."""


class Defaults(Options):
    """Properties of an alignment that most kinds do not change."""

    title: ClassVar[str] = ""
    """The kind's name in papers."""
    convolution: ClassVar[SpatialOptions | None] = None
    """iREPA's projector and targets; None: REPA's."""
    attention_of: ClassVar[list[int]] = []
    """Blocks, counted from 1, whose queries and keys the loss reads."""
    group: ClassVar[int] = 1
    """Rollouts in a group, which stays on one GPU, in one micro-batch, side by side."""
    by_image: ClassVar[bool] = False
    """Whether groups are rollouts of one image."""
    by_noise_level: ClassVar[bool] = False
    """Whether groups are rollouts of similar noise level; else they are in the batch's order."""
    needs_critic: ClassVar[bool] = False
    """Whether the latent critic is used."""
    needs_old_policy: ClassVar[bool] = False
    """Whether the averaged network's cosines are used."""
    needs_class_token: ClassVar[bool] = False
    """Whether the network denoises the class token of the (only) encoder beside the latents."""
    cleaner_target: ClassVar[CleanerTarget | None] = None
    """Targets that the averaged network gives at less noise; None: none."""

    @property
    def name(self) -> str:
        """Name in tables and figures; empty for a custom loss, which has its row's name."""
        return self.title

    @property
    def missing(self) -> list[str]:
        """Parts of the form that `title` names and these options leave out."""
        return []

    def check(self, training: TrainingOptions) -> None:
        """Raise `ValueError` for options that `training` leaves without effect."""


class NoAlignment(Defaults):
    """Plain SiT or DiT: the denoising loss alone."""

    title: ClassVar[str] = "none"
    loss: ClassVar[str] = "vrpo.alignment.base:Alignment"
    encoders: ClassVar[list[str]] = []
    depth: ClassVar[int] = 0
    measure_agreement: ClassVar[bool] = False
    kind: Literal["none"] = option(..., "no alignment")


class AlignmentOptions(Defaults):
    """Options of all alignments."""

    encoders: Names = option(
        ..., "keys of `encoders`: their tokens are the targets; several are averaged", min_length=1
    )
    depth: int = option(
        8, "block of the hidden tokens; REPA: 8, for B 4 (arXiv:2410.06940)", "blocks", ge=1
    )
    weight: float = option(
        0.5, "lambda, the weight of alignment beside the denoising loss; REPA: 0.5", ge=0
    )
    measure_agreement: bool = option(
        False,
        "log the cosine of alignment's and denoising's gradients at the hidden tokens, "
        "by noise level; takes one more pass over them",
    )


class UnguidedOptions(AlignmentOptions):
    """Alignments without an encoder."""

    encoders: ClassVar[list[str]] = []


class ProjectedOptions(AlignmentOptions):
    """Alignments whose projector is REPA's MLP."""

    projector_width: int = option(
        2048, "hidden width of the projector's three-layer MLP; REPA: 2048", ge=1
    )
