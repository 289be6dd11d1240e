"""The contract between the trainer and an alignment loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrpo.alignment.agreement import Agreement, Gate
from vrpo.alignment.diagnostics import NoiseLevelLog, Reduce
from vrpo.alignment.schedules import schedule_factor
from vrpo.alignment.spatial import SpatialStructure, spatial_normalisation
from vrpo.models.projector import ConvolutionalProjector, Projector

if TYPE_CHECKING:
    from vrpo.config.alignments import SpatialOptions
    from vrpo.config.schedules import ScheduleOptions

NOISE_BINS = 20  # of what is logged by noise level


@dataclass
class AlignmentBatch:
    """What one micro-batch of B rollouts offers to an alignment loss; groups lie side by side along B."""

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
    """The network's estimate of the clean latents [B,C,H,W], with gradient; computed when called."""
    old_cosine: Tensor | None = None
    """`ProjectedAlignment.cosine` [B] of the averaged network, without gradient, where `needs_old_policy`."""
    attention: Sequence[tuple[Tensor, Tensor]] = ()
    """Queries and keys [B,heads,N,W/heads] of the blocks in `Alignment.attention_of`, with gradient."""
    encoder_attention: dict[str, Tensor] = field(default_factory=dict)
    """Queries and keys [B,L,2,heads,N,D/heads] of L blocks of each encoder, where `Alignment.attention_of` is not empty."""
    step: Tensor | None = None
    """Optimiser steps done so far, int64 scalar on the device: a tensor, so that compiled code serves all steps."""


@dataclass
class AlignmentResult:
    """An alignment's loss, a mean over the micro-batch, and what is worth logging (scalars, no gradient)."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    told: dict[str, Tensor] = field(default_factory=dict)
    """What the gate has to know in its backward [B], besides the noise levels (`vrpo.alignment.agreement.COLUMNS`)."""


class Alignment(nn.Module):
    """Base of alignment losses, and the loss of plain training: zero.

    A subclass sets the attributes below, and computes `forward`. Parameters (projectors) are trained and averaged
    with the network; buffers are part of the training state, which the first rank saves for all: `finish_step` must leave them equal on all ranks.
    """

    hidden_after: tuple[int, ...] = ()
    """Blocks (1-based) after which hidden tokens are taken."""
    attention_of: tuple[int, ...] = ()
    """Blocks (1-based) whose queries and keys are taken."""
    encoders: tuple[str, ...] = ()
    """Encoders whose tokens are read."""
    group_size: int = 1
    """Rollouts in a group; the trainer keeps a group on one GPU, in one micro-batch, side by side."""
    grouping: Literal["noise_level", "image"] = "noise_level"
    """What the rollouts of a group share."""
    needs_old_policy: bool = False
    """Whether the averaged network's cosines are wanted."""
    needs_gate: bool = False
    """Whether its loss depends on what the gate finds; without, a gate only measures."""
    logged: tuple[str, ...] = ("fidelity",)
    """Quantities that `forward` adds to `log`, by noise level."""

    def __init__(self) -> None:
        super().__init__()
        self.log = NoiseLevelLog(self.logged, NOISE_BINS)

    def gate(self) -> Gate | None:
        """What the hidden tokens go through on their way to the blocks behind and to the alignment, in one forward pass; None: nothing."""
        return None

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """The loss of one micro-batch."""
        self.log.add(batch.noise_level, fidelity=-batch.error)
        return AlignmentResult(loss=batch.error.new_zeros(()))

    def warnings(self) -> list[str]:
        """What the person who started the training should know by now; asked for when a row is logged, each is said once."""
        return []

    def finish_step(self, all_reduce: Reduce, valid: Tensor) -> None:
        """Called once per optimiser step on every rank, after the backward passes.

        Args:
            all_reduce: sums a tensor over ranks.
            valid: 0-d bool, false when the step was skipped because something was not finite.
        """
        self.log.finish_step(all_reduce, valid)


class ProjectedAlignment(Alignment):
    """Alignment of projected hidden tokens: one projector per encoder, cosines in fp32."""

    logged = ("fidelity", "semantic", "agreement")

    def __init__(
        self,
        *,
        width: int,
        token_widths: dict[str, int],
        depth: int,
        projector_width: int | None = None,
        spatial: SpatialStructure | SpatialOptions | None = None,
        weight_schedule: ScheduleOptions | None = None,
        measure_agreement: bool = False,
    ) -> None:
        """Its shape and what changes lambda; options as in `vrpo.config.alignments`.

        Args:
            width: channels W of the hidden tokens.
            token_widths: channels D of each encoder's tokens.
            depth: block (1-based) after which hidden tokens are taken.
            projector_width: hidden width of REPA's MLP, where `spatial` is None.
            spatial: iREPA's projector and targets, in the place of REPA's.
            weight_schedule: factor of lambda; None: constant.
            measure_agreement: whether the agreement of gradients is logged.
        """
        super().__init__()
        self.hidden_after = (depth,)
        self.encoders = tuple(token_widths)
        self.spatial = spatial
        self.projectors = nn.ModuleList(
            Projector(width, projector_width, size) if spatial is None else ConvolutionalProjector(width, size, spatial.kernel_size)
            for size in token_widths.values()
        )
        self.weight_schedule = weight_schedule
        adaptive = weight_schedule is not None and weight_schedule.kind == "adaptive"
        self.needs_gate = adaptive
        self.agreement = Agreement(NOISE_BINS) if measure_agreement or adaptive else None

    def gate(self) -> Gate | None:
        """See the base class."""
        return None if self.agreement is None else self.agreement.gate()

    def weight_factor(self, batch: AlignmentBatch) -> Tensor | float:
        """What lambda is multiplied by at this step: a float32 scalar, or [B] where it differs between noise levels."""
        if self.weight_schedule is None or self.weight_schedule.kind == "constant":
            return 1.0
        if self.weight_schedule.kind == "adaptive":
            return self.agreement.factor(batch.noise_level)
        assert batch.step is not None, "a schedule follows the step: the trainer gives it"
        return schedule_factor(self.weight_schedule, batch.step)

    def finish_step(self, all_reduce: Reduce, valid: Tensor) -> None:
        """See the base class."""
        if self.agreement is not None:
            self.log.add_sums("agreement", self.agreement.finish_step(all_reduce, valid)[:2])
        super().finish_step(all_reduce, valid)

    def cosine(self, hidden: Tensor, tokens: dict[str, Tensor]) -> Tensor:
        """Mean cosine [B] over tokens and encoders between projected hidden tokens [B,N,W] and encoder tokens [B,N,D]."""
        targets = [tokens[name] if self.spatial is None else spatial_normalisation(tokens[name], self.spatial.gamma) for name in self.encoders]
        cosines = [cosine_similarity(projector(hidden), target).mean(dim=1) for projector, target in zip(self.projectors, targets, strict=True)]
        return torch.stack(cosines).mean(dim=0)


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine along the last axis, in fp32 whatever autocast says: in fp16 the norm overflows and ends in NaN (REPA, issue 46)."""
    with torch.autocast(a.device.type, enabled=False):
        return (F.normalize(a.float(), dim=-1) * F.normalize(b.float(), dim=-1)).sum(dim=-1)
