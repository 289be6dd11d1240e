"""Factors of weights as functions of the step, on the device: one compiled graph serves all steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vrpo.config.schedules import ScheduleOptions


def schedule_factor(schedule: ScheduleOptions, step: Tensor) -> Tensor:
    """The factor at `step` (int64 scalar, optimiser steps done so far): a float32 scalar. `adaptive` is not a function of the step, it gives 1 here."""
    if schedule.kind in ("constant", "adaptive"):
        return torch.ones((), device=step.device)
    if schedule.kind == "stop":
        return torch.where(step < schedule.end, 1.0, schedule.final)
    progress = ((step - schedule.start).float() / (schedule.end - schedule.start)).clamp(0, 1)
    if schedule.kind == "cosine":
        progress = (1 - torch.cos(math.pi * progress)) / 2
    return 1 + (schedule.final - 1) * progress
