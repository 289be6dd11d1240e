"""Memory that a training needs, and what to change where there is too little."""

from __future__ import annotations

from dataclasses import dataclass

from vrpo.runtime.distributed import Ranks
from vrpo.runtime.memory import (
    GIB,
    is_out_of_memory,
    memory_of,
    memory_text,
    peak_of,
    wanted_text,
)
from vrpo.training.feed import plan_parts
from vrpo.training.global_targets import gather_targets
from vrpo.training.trainer import Trainer

USABLE = 0.9  # share of a device's memory; the rest is fragments and workspaces of kernels
OTHERS = "end what else uses that memory"


@dataclass(frozen=True)
class Need:
    """Bytes of a training on one rank, without compilation, which needs less."""

    fixed: int  # weights, their averages and gradients, AdamW's moments
    sample: float  # of a step, for each sample at a time

    def of(self, samples: int) -> float:
        """Bytes with `samples` at a time."""
        return self.fixed + samples * self.sample


def measured_need(trainer: Trainer) -> Need:
    """Measure steps of one group of rollouts, and of two where they divide the batch."""
    group, batch = trainer.objective.alignment.options.group, trainer.options.batch_size
    weights = sum(
        each.numel() * each.element_size()
        for module in (trainer.objective, trainer.ema)
        for each in (*module.parameters(), *module.buffers())
    )
    trained = sum(each.numel() * each.element_size() for each in trainer.parameters)
    one, first, second = 0, group, 2 * group
    if batch % second:
        first, second = 0, group
    else:
        one = _step_peak(trainer, first)
    sample = (_step_peak(trainer, second) - one) / (second - first)
    return Need(weights + 3 * trained, sample)


def too_little_memory(trainer: Trainer, failure: str) -> str:
    """The line about a step that got no memory: what it needs, and which option to change.

    Args:
        trainer: whose step failed.
        failure: what PyTorch said.
    """
    options, device, world = trainer.options, trainer.ranks.device, trainer.ranks.world
    group = trainer.objective.alignment.options.group
    held, memory, more = options.micro_batch(world, group), memory_of(device), wanted_text(failure)
    start = f"training.batch_size: {memory_text(device)} is too small for {held} samples at a time"
    try:
        need = measured_need(trainer)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return f"{start}, and even for {group}{more}; {OTHERS}, or train a smaller model"
    remedies = [f"use more GPUs than {world}"]
    if not options.activation_checkpointing:
        remedies.insert(0, "set training.activation_checkpointing: true")
    if need.of(held) <= USABLE * memory:
        remedies.insert(0, OTHERS)
    elif size := fitting(need, held, group, USABLE * memory):
        parts = options.accumulation * (held // size)
        remedies.insert(0, f"set training.accumulation: {parts} (about {_gib(need.of(size))})")
    what = f"about {_gib(need.of(held))}, {_gib(need.fixed)} of it for weights and their states"
    return f"{start}, which take {what}{more}; {', or '.join(remedies)}"


def fitting(need: Need, held: int, group: int, room: float) -> int | None:
    """The largest divisor of `held` samples, in whole groups, that takes at most `room` bytes."""
    sizes = (size for size in range(held, 0, -1) if held % size == 0 and size % group == 0)
    return next((size for size in sizes if need.of(size) <= room), None)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _step_peak(trainer: Trainer, samples: int) -> int:
    """Most bytes that the forward and backward pass of `samples` add, with their gradients."""
    parts = trainer.options.batch_size // samples
    part = plan_parts(trainer.plan(trainer.step), rank=0, world=1, accumulation=parts)[0]
    alone = Ranks(0, 1, trainer.ranks.device)

    def step() -> None:
        # those of the next step are read while this one computes
        batch, _ahead = (trainer.feed.micro_batch(part, (-samples, turn)) for turn in range(2))
        targets = None
        if trainer.objective.alignment.needs_global_targets:
            (targets,) = gather_targets([batch], alone)
        loss, _ = trainer.loss(trainer.objective, batch, trainer.draws(), targets)
        loss.backward()

    trainer.optimizer.zero_grad(set_to_none=True)
    peak = peak_of(step, alone.device)
    trainer.optimizer.zero_grad(set_to_none=True)
    return peak
