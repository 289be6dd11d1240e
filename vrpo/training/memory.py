"""Memory that a training needs, and remedies for too little of it."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

from vrpo.runtime.distributed import Ranks
from vrpo.runtime.memory import (
    GIB,
    failed_size,
    is_out_of_memory,
    memory_of,
    memory_text,
    peak_of,
    tensor_bytes,
)
from vrpo.training.feed import tensors_of
from vrpo.training.global_targets import gather_targets
from vrpo.training.trainer import Trainer

USABLE = 0.9  # share of a device's memory; the rest is fragments and workspaces of kernels


@dataclass(frozen=True)
class Need:
    """Bytes of a training on one rank, without compilation, which needs less."""

    fixed: int  # weights, their averages and gradients, AdamW's moments, data of two steps
    sample: float  # of the forward and backward pass, for each sample at a time

    def of(self, samples: int) -> float:
        """Bytes with `samples` at a time."""
        return self.fixed + samples * self.sample


def measured_need(trainer: Trainer) -> Need:
    """Measure a micro-batch of one group of rollouts, and one of two if it has the memory.

    The trainer cannot go on training after this.
    """
    options, group = trainer.options, trainer.objective.alignment.options.group
    own = options.batch_size // trainer.ranks.world
    trainer.loss_function = trainer.objective  # drops DDP's hooks and buckets
    gc.collect()
    for parameter in trainer.parameters:  # gradients are fixed, so not measured
        parameter.grad = torch.zeros_like(parameter)
    peak, data = _measured(trainer, group)
    sample = peak / group
    if own >= 2 * group:
        try:
            sample = (_measured(trainer, 2 * group)[0] - peak) / group
        except RuntimeError as error:  # the first value, which is higher, serves
            if not is_out_of_memory(error):
                raise
    return Need(_states(trainer) + round(2 * own * data), sample)


def too_little_memory(trainer: Trainer, failure: str) -> str:
    """Error message for a step that ran out of memory: its need, and the options to change.

    Args:
        trainer: whose step failed; it cannot go on training after this.
        failure: PyTorch's message.
    """
    options, device, world = trainer.options, trainer.ranks.device, trainer.ranks.world
    group = trainer.objective.alignment.options.group
    held, more = options.micro_batch(world, group), failed_size(failure)
    start = f"training.batch_size: {memory_text(device)} is too small for {held} samples at a time"
    try:
        need = measured_need(trainer)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        even = f", and even for {group}" if group < held else ""
        return f"{start}{even}{more}; {_or(_for_states(trainer))}"
    fixed = f"{_gib(need.fixed)} of it for weights, states and data"
    start += f", which take about {_gib(need.of(held))}, {fixed}{more}"
    return f"{start}; {_or(_remedies(trainer, need, held, USABLE * memory_of(device)))}"


def fitting(need: Need, held: int, group: int, room: float) -> int | None:
    """The largest divisor of `held` samples, in whole groups, that takes at most `room` bytes."""
    sizes = (size for size in range(held, 0, -1) if held % size == 0 and size % group == 0)
    return next((size for size in sizes if need.of(size) <= room), None)


def _remedies(trainer: Trainer, need: Need, held: int, room: float) -> list[str]:
    """Remedies for a step of `held` samples on a device with `room` bytes."""
    options, group = trainer.options, trainer.objective.alignment.options.group
    if need.fixed > room:
        return _for_states(trainer)
    remedies = ["stop other programs that use it"] if need.of(held) <= room else []
    size = fitting(need, held, group, room)
    if size is not None and size < held:
        parts = options.accumulation * (held // size)
        remedies.append(f"set training.accumulation: {parts} (about {_gib(need.of(size))})")
    known = hasattr(trainer.objective.network, "activation_checkpointing")
    if known and not options.activation_checkpointing:
        remedies.append("set training.activation_checkpointing: true")
    if trainer.ranks.device.type == "cuda" and held > group:
        remedies.append(f"use more GPUs than {trainer.ranks.world}")
    return remedies or _for_states(trainer)


def _for_states(trainer: Trainer) -> list[str]:
    """Remedies if weights and their states fill the memory."""
    latents = ["set training.latents: mapped"] if trainer.feed.resident is not None else []
    return [*latents, "train a smaller model", "use a device with more memory"]


def _or(remedies: list[str]) -> str:
    return ", or ".join(remedies)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _states(trainer: Trainer) -> int:
    """Bytes that are held between steps, once all gradients and AdamW's moments are there."""
    device = trainer.ranks.device
    trained = tensor_bytes(trainer.parameters)
    moments = 0 if trainer.optimizer.state else 2 * trained
    if device.type == "cuda":  # with latents, critics and online encoders
        return torch.cuda.memory_allocated(device) + moments
    weights = tensor_bytes([trainer.objective.state_dict(), trainer.ema.state_dict()])
    return weights + 3 * trained  # gradients and two moments


def _measured(trainer: Trainer, samples: int) -> tuple[int, float]:
    """Bytes that forward and backward pass of `samples` add, and bytes of one sample's data."""
    part = trainer.plan(trainer.step).part_of(slice(samples))
    place = (-samples, 0)  # the feed's own places are not negative
    batch, alone = trainer.feed.micro_batch(part, place), Ranks(0, 1, trainer.ranks.device)
    targets = None
    if trainer.objective.alignment.needs_global_targets:
        (targets,) = gather_targets([batch], alone)
    drawn = trainer.draws()

    def step() -> None:
        trainer.loss(trainer.objective, batch, drawn, targets)[0].backward()

    return peak_of(step, alone.device), tensor_bytes(tensors_of(batch)) / samples
