"""The contract between the trainer and an alignment loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrpo.alignment.agreement import Agreement
from vrpo.alignment.diagnostics import NoiseLevelLog, Reduce
from vrpo.alignment.moments import Moments
from vrpo.alignment.spatial import spatial_normalisation
from vrpo.config.alignments import AnyAlignment
from vrpo.config.alignments.base import NOISE_BINS
from vrpo.errors import UserError
from vrpo.models.projector import ConvolutionalProjector, Projector

Critic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AlignmentContext:
    """The network, latents and encoders that a loss is built for, beside its options."""

    latent_shape: tuple[int, ...]
    """Shape (C, h, w) of the latents."""
    width: int
    """Channels W of the network's hidden tokens."""
    tokens: dict[str, tuple[int, ...]]
    """Tokens N and channels D of each encoder in `options.encoders`, in their order."""
    critics: dict[str, Critic] = field(default_factory=dict)
    """A frozen latent critic for each encoder, where `options.needs_critic`; it is not trained,
    averaged or saved with the run."""


class GlobalTargets(NamedTuple):
    """Encoder tokens of the G images of a step's global batch, for one micro-batch of it."""

    tokens: dict[str, Tensor]
    """[G,N,D] by encoder; no gradient."""
    rows: Tensor
    """Rows of the data [G] int64: equal ones are one image."""
    places: Tensor
    """Which of the G images each rollout of the micro-batch is [B] int64."""


@dataclass
class AlignmentBatch:
    """One micro-batch of B rollouts, for an alignment loss; groups are side by side along B."""

    hidden: Sequence[Tensor]
    """Hidden tokens [B,N,W] after the blocks in `Alignment.hidden_after`, with gradient."""
    tokens: dict[str, Tensor]
    """Encoder tokens of the clean images [B,N,D] by encoder."""
    noise_level: Tensor
    """Noise level of each rollout [B], 0 clean to 1 noise."""
    error: Tensor
    """Denoising error mean (prediction - target)^2 of each rollout [B], with gradient."""
    x0: Tensor
    """Clean latents [B,C,H,W]."""
    x0_hat: Callable[[], Tensor]
    """Computes the network's estimate of the clean latents [B,C,H,W], with gradient."""
    old_cosine: Tensor | None = None
    """`ProjectedAlignment.cosine` [B] of the averaged network, without gradient, where
    `options.needs_old_policy`."""
    cleaner_hidden: Tensor | None = None
    """Hidden tokens [B,N,W] of the averaged network at less noise, without gradient, where
    `options.cleaner_target`."""
    attention: Sequence[tuple[Tensor, Tensor]] = ()
    """Queries and keys [B,heads,N,W/heads] of the blocks `Alignment.attention_of`."""
    encoder_attention: dict[str, Tensor] = field(default_factory=dict)
    """Queries and keys [B,L,2,heads,N,D/heads] of L blocks of each encoder, where
    `Alignment.attention_of` is not empty."""
    step: Tensor | None = None
    """Optimizer steps done so far, int64 scalar on the device: one compiled graph serves all."""
    global_targets: GlobalTargets | None = None
    """Encoder tokens of the global batch, where `Alignment.needs_global_targets`."""
    class_token_error: Tensor | None = None
    """Denoising error [B] of the class token, with gradient, where `options.needs_class_token`.
    Tokens and hidden tokens are then [B,1+N,...], the class token first."""


@dataclass
class AlignmentResult:
    """An alignment's loss, a mean over the micro-batch, and scalars to log, without gradient."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


RESERVED = ("step", "loss", "denoising", "grad_norm", "skipped")
"""Columns of train.csv that the trainer fills."""


def checked_result(alignment: nn.Module, result: object) -> AlignmentResult:
    """`result` of an alignment's `forward`.

    Raises:
        UserError: it is no `AlignmentResult`, or its loss or a metric is not a scalar tensor, or a
            metric has a name of the trainer's own.
    """
    where = f"{type(alignment).__name__}: its `forward` returned"
    if not isinstance(result, AlignmentResult):
        raise UserError(
            f"{where} a {type(result).__name__}; return an AlignmentResult(loss, metrics)"
        )
    for name, value in (("loss", result.loss), *result.metrics.items()):
        if not isinstance(value, Tensor):
            raise UserError(f"{where} `{name}` as a {type(value).__name__}; return a scalar tensor")
        if value.ndim:
            raise UserError(
                f"{where} `{name}` of shape {list(value.shape)}; return its mean, a scalar"
            )
    for name in RESERVED:
        if name in result.metrics:
            raise UserError(
                f"{where} a metric `{name}`, which the trainer logs itself; give it another name"
            )
    return result


class Alignment(nn.Module):
    """Base of alignment losses, and the loss of plain training: zero.

    A subclass computes `forward`. Parameters (projectors) are trained and averaged with the
    network; buffers are part of the training state, which the first rank saves for all:
    `finish_step` must leave them equal on all ranks.
    """

    logged: tuple[str, ...] = ("fidelity",)
    """Quantities that `forward` adds to `log`, by noise level."""
    needs_global_targets: bool = False
    """Whether `forward` uses encoder tokens of the whole global batch."""

    def __init__(self, options: AnyAlignment, context: AlignmentContext) -> None:
        """`options` are of the subclass's kind."""
        super().__init__()
        self.options, self.context = options, context
        self.log = NoiseLevelLog(self.logged, NOISE_BINS)
        self.agreement = Agreement(NOISE_BINS) if options.measure_agreement else None

    @property
    def hidden_after(self) -> tuple[int, ...]:
        """Blocks, counted from 1, after which hidden tokens are taken."""
        return (self.options.depth,) if self.options.depth else ()

    @property
    def attention_of(self) -> tuple[int, ...]:
        """Blocks, counted from 1, whose queries and keys are taken."""
        return tuple(self.options.attention_of)

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """The loss of one micro-batch."""
        self.log.add(batch.noise_level, fidelity=-batch.error)
        return AlignmentResult(loss=batch.error.new_zeros(()))

    def warnings(self) -> list[str]:
        """Sentences for the log, asked for when a row is logged; each is logged once."""
        return []

    def reward_moments(self) -> dict[str, Moments]:
        """Running mean and deviation of each reward by noise level, where there are any."""
        return {}

    def finish_step(self, all_reduce: Reduce, valid: Tensor) -> None:
        """Called once per optimizer step on every rank, after the backward passes.

        Args:
            all_reduce: sums a tensor over ranks.
            valid: 0-d bool, false when the step was skipped because something was not finite.
        """
        if self.agreement is not None:
            self.log.add_sums("agreement", self.agreement.finish_step(all_reduce, valid))
        self.log.finish_step(all_reduce, valid)


class ProjectedAlignment(Alignment):
    """Alignment of projected hidden tokens: one projector per encoder, cosines in fp32."""

    logged = ("fidelity", "semantic", "agreement")

    def __init__(self, options: AnyAlignment, context: AlignmentContext) -> None:
        """See the base class."""
        super().__init__(options, context)
        self.projectors = nn.ModuleList(
            _projector(options, context.width, channels) for _, channels in context.tokens.values()
        )

    def cosine(self, hidden: Tensor, tokens: dict[str, Tensor]) -> Tensor:
        """Mean cosine [B] over tokens and encoders between projected hidden and encoder tokens.

        Args:
            hidden: [B,N,W].
            tokens: [B,N,D] of each encoder.
        """
        targets = [tokens[name] for name in self.options.encoders]
        if self.options.convolution is not None:
            gamma = self.options.convolution.gamma
            targets = [spatial_normalisation(target, gamma) for target in targets]
        cosines = [
            cosine_similarity(projector(hidden), target).mean(dim=1)
            for projector, target in zip(self.projectors, targets, strict=True)
        ]
        return torch.stack(cosines).mean(dim=0)


def _projector(options: AnyAlignment, width: int, channels: int) -> nn.Module:
    """iREPA's convolution or REPA's MLP."""
    if options.convolution is not None:
        return ConvolutionalProjector(width, channels, options.convolution.kernel_size)
    return Projector(width, options.projector_width, channels)


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine along the last axis, in fp32 even under autocast.

    In fp16 the norm overflows and gives NaN (REPA, issue 46).
    """
    with torch.autocast(a.device.type, enabled=False):
        return (F.normalize(a.float(), dim=-1) * F.normalize(b.float(), dim=-1)).sum(dim=-1)
