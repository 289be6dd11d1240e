"""REPA: static alignment of hidden tokens with an encoder (Yu et al., arXiv:2410.06940, eq. 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vrpo.alignment.base import AlignmentBatch, AlignmentResult, ProjectedAlignment
from vrpo.config.alignments.repa import ScheduleOptions


class REPA(ProjectedAlignment):
    """`L = -lambda * mean_n cos(projector(h)_n, y_n)`; every state has the same weight."""

    logged = (*ProjectedAlignment.logged, "weight")

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        cosine = self.cosine(batch.hidden[0], batch.tokens)  # (B)
        factor = self._factor(batch) * torch.ones_like(cosine.detach())  # (B)
        self.log.add(batch.noise_level, fidelity=-batch.error, semantic=cosine, weight=factor)
        loss = -self.options.weight * (factor * cosine).mean()
        return AlignmentResult(loss, {"alignment": -cosine.detach().mean()})

    def _factor(self, batch: AlignmentBatch) -> Tensor | float:
        """Factor of lambda at this step."""
        schedule = self.options.weight_schedule
        if schedule.kind == "constant":
            return 1.0
        assert batch.step is not None, "a schedule follows the step: the trainer gives it"
        return schedule_factor(schedule, batch.step)


def schedule_factor(schedule: ScheduleOptions, step: Tensor) -> Tensor:
    """The factor, a float32 scalar, after `step` optimizer steps (int64 scalar)."""
    if schedule.kind == "constant":
        return torch.ones((), device=step.device)
    if schedule.kind == "stop":
        return torch.where(step < schedule.end, 1.0, schedule.final)
    progress = ((step - schedule.start).float() / (schedule.end - schedule.start)).clamp(0, 1)
    if schedule.kind == "cosine":
        progress = (1 - torch.cos(math.pi * progress)) / 2
    return 1 + (schedule.final - 1) * progress
