"""Samples, noise levels, dropped labels and noise of a step: a function of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vrpo.config.alignments import AnyAlignment
from vrpo.config.training import TrainingOptions
from vrpo.data.batches import sample_indices
from vrpo.models.entangled import JointState
from vrpo.processes.process import Process
from vrpo.seeds import torch_generator


@dataclass(frozen=True)
class StepPlan:
    """A global batch of B rollouts, ordered by rank and micro-batch: groups are side by side."""

    indices: np.ndarray
    """Samples [B] int64."""
    times: Tensor
    """Times of the process [B]."""
    dropped: Tensor
    """Whether the label is replaced by the null class [B] bool."""
    draw: Tensor
    """Which of the step's noise draws belongs to each rollout [B] int64."""

    def part(self, index: int, parts: int) -> StepPlan:
        """The `index`-th of `parts` equal parts."""
        size = len(self.indices) // parts
        return self.part_of(slice(index * size, (index + 1) * size))

    def part_of(self, cut: slice) -> StepPlan:
        """The rollouts in `cut`."""
        return StepPlan(self.indices[cut], self.times[cut], self.dropped[cut], self.draw[cut])


def plan_step(
    process: Process,
    alignment: AnyAlignment,
    training: TrainingOptions,
    *,
    seed: int,
    step: int,
    count: int,
) -> StepPlan:
    """Plan step `step` (from 0) of a training on `count` samples.

    Runs that differ only in alignment draw the same samples, times, noise and dropout; groups of
    similar noise level only reorder the batch, groups of one image take more rollouts of fewer
    samples.
    """
    batch_size, group = training.batch_size, alignment.group
    repeats = group if alignment.by_image else 1
    indices = np.repeat(sample_indices(count, batch_size // repeats, seed, step), repeats)
    times = process.sample_times(batch_size, torch_generator("train-time", seed, step))
    generator = torch_generator("train-label-dropout", seed, step)
    dropped = torch.rand(batch_size, generator=generator) < training.label_dropout
    order = torch.arange(batch_size)
    if alignment.by_noise_level:
        order = process.noise_level(times).argsort(stable=True)
    return StepPlan(indices[order.numpy()], times[order], dropped[order], order)


@dataclass(frozen=True)
class StepDraws:
    """Random tensors of a global batch of B rollouts, indexed by `StepPlan.draw`."""

    latent: Tensor
    """Standard normal noise [B,C,h,w] of the VAE's posterior."""
    noise: Tensor
    """Standard normal noise [B,C,h,w] of the process."""
    token: Tensor | None
    """Standard normal noise [B,D] of a class token, where the network denoises one."""
    gaps: Tensor | None
    """Differences of noise levels [B], where the alignment has a cleaner target."""


def step_draws(
    alignment: AnyAlignment,
    joint: JointState | None,
    shape: tuple[int, ...],
    *,
    seed: int,
    step: int,
    batch_size: int,
    device: torch.device,
) -> StepDraws:
    """The draws of step `step`, for latents (C, h, w); `joint`, as the network has it."""
    of_step, token, gaps = (seed, step, batch_size), None, None
    if joint is not None:
        token = step_noise("class-token", *of_step, (joint.width,), device)
    if alignment.cleaner_target is not None:
        gaps = step_gaps(alignment.cleaner_target.noise_gap, *of_step, device)
    latent, noise = (step_noise(name, *of_step, shape, device) for name in ("latent", "noise"))
    return StepDraws(latent, noise, token, gaps)


def step_gaps(
    greatest: float, seed: int, step: int, batch_size: int, device: torch.device
) -> Tensor:
    """Differences of noise levels [B] of a whole global batch, uniform in [0, greatest)."""
    generator = torch_generator("train", "noise-gap", seed, step, device=device)
    return greatest * torch.rand(batch_size, generator=generator, device=device)


def step_noise(
    purpose: str,
    seed: int,
    step: int,
    batch_size: int,
    shape: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """Standard normal noise of a whole global batch [B, *shape], drawn on `device`."""
    generator = torch_generator("train", purpose, seed, step, device=device)
    return torch.randn(batch_size, *shape, generator=generator, device=device)
