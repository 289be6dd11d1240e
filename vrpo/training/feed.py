"""Micro-batches of one rank; a thread reads the next step's samples while this one computes.

On a GPU they are read into pinned memory, copied on a separate stream as they are stored (int8
stays int8), and decoded there. A step's data are a function of its plan alone, so reading ahead
changes no result and is no part of the training's state.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vrpo.data.batches import StoredBatch, TrainingData
from vrpo.training.plan import StepPlan

log = logging.getLogger(__name__)
RESIDENT_SHARE = 0.25  # of a GPU's memory that latents may take where `latents` is `auto`
LOADED_AT_ONCE = 1 << 16  # rows
MOMENTS = ("mean", "std")


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of a micro-batch of B rollouts, on the training's device."""

    mean: Tensor  # [B, C, h, w] float32
    std: Tensor  # [B, C, h, w] float32
    rows: Tensor  # [B] int64, samples of the data
    labels: Tensor  # [B] int64, dropped ones replaced by the null class
    times: Tensor  # [B]
    draw: Tensor  # [B] int64, which of the step's noise draws belongs to each rollout
    tokens: dict[str, Tensor]  # encoder -> [B, N, D] float32; REG: [B, 1 + N, D]
    attention: dict[str, Tensor]  # encoder -> [B, L, 2, heads, N, D / heads] float32


class Feed:
    """The micro-batches of every step, one step read ahead."""

    def __init__(
        self,
        data: TrainingData,
        plans: Callable[[int], Sequence[StepPlan]],
        *,
        device: torch.device,
        encoders: tuple[str, ...],
        attention: bool,
        class_token: bool,
        null_label: int,
        latents: Literal["auto", "resident", "mapped"] = "auto",
    ) -> None:
        """Args:
        data: what is read.
        plans: this rank's part of each micro-batch of a step.
        device: where the micro-batches go.
        encoders: those whose tokens are read.
        attention: whether their queries and keys are, too.
        class_token: whether their class tokens are, too, as the first tokens.
        null_label: label of dropped classes.
        latents: `resident`, all latents are in the device's memory; `mapped`, they are read for
            each batch; `auto`, as they fit.
        """
        self.data, self.plans, self.device, self.null_label = data, plans, device, null_label
        self.resident = self._load_latents() if _is_resident(data, device, latents) else None
        self.wanted: dict[str, Any] = {
            "encoders": encoders,
            "attention": attention,
            "class_token": class_token,
            "moments": self.resident is None,
        }
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._due: tuple[int, Future[list[MicroBatch]]] | None = None
        self._on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None
        if self._on_gpu:
            self._stream.wait_stream(torch.cuda.current_stream(device))  # the latents are there
        self._copied: torch.cuda.Event | None = None
        self._pinned: dict[tuple[int, int], StoredBatch] = {}
        self._in_use: dict[int, torch.cuda.Event] = {}  # of each half of the pinned memory

    def take(self, step: int) -> list[MicroBatch]:
        """The micro-batches of `step`; the reading of the next one begins."""
        if self._due is None or self._due[0] != step:
            self._due = (step, self._thread.submit(self._read, step))
        batches = self._due[1].result()
        if self._on_gpu:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(self._copied)
            for batch in batches:
                for tensor in tensors_of(batch):
                    tensor.record_stream(stream)
        self._due = (step + 1, self._thread.submit(self._read, step + 1))
        return batches

    def close(self) -> None:
        """Stop reading ahead."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    @torch.no_grad()
    def _read(self, step: int) -> list[MicroBatch]:
        half = step % 2
        if half in self._in_use:
            self._in_use[half].synchronize()  # its copies of two steps ago are done
        with torch.cuda.stream(self._stream) if self._on_gpu else contextlib.nullcontext():
            parts = enumerate(self.plans(step))
            batches = [self.micro_batch(part, (half, micro)) for micro, part in parts]
            if self._on_gpu:
                self._copied = self._in_use[half] = self._stream.record_event()
        return batches

    def micro_batch(self, part: StepPlan, place: tuple[int, int]) -> MicroBatch:
        """Read `part` through the pinned memory of `place`, which belongs to parts of its size."""
        buffers = self._buffers(place, len(part.indices))
        stored = self.data.read(part.indices, buffers, **self.wanted)
        stored = {name: self._moved(values) for name, values in stored.items()}
        rows = self._moved(torch.from_numpy(part.indices))
        if self.resident is not None:
            stored |= {name: values[rows] for name, values in self.resident.items()}
        batch = self.data.decode(stored)
        return MicroBatch(
            mean=batch.mean,
            std=batch.std,
            rows=rows,
            labels=torch.where(self._moved(part.dropped), self.null_label, batch.labels),
            times=self._moved(part.times),
            draw=self._moved(part.draw),
            tokens=batch.tokens,
            attention=batch.attention,
        )

    def _moved(self, values: Tensor) -> Tensor:
        """On the device, without waiting: through pinned memory."""
        return values.pin_memory().to(self.device, non_blocking=True) if self._on_gpu else values

    def _buffers(self, place: tuple[int, int], size: int) -> StoredBatch | None:
        """Pinned memory for one micro-batch; None on a CPU."""
        if not self._on_gpu:
            return None
        if place not in self._pinned:
            buffers = self._pinned[place] = {}
            for key, (source, name) in self.data.stored(**self.wanted).items():
                shape, kind = (size, *source.shape(name)[1:]), _torch_type(source.dtype(name))
                buffers[key] = torch.empty(shape, dtype=kind, pin_memory=True)
        return self._pinned[place]

    def _load_latents(self) -> StoredBatch:
        """All means and standard deviations, as they are stored, in the device's memory."""
        resident = {}
        for name in MOMENTS:
            shape, kind = self.data.latents.shape(name), _torch_type(self.data.latents.dtype(name))
            resident[name] = torch.empty(shape, dtype=kind, device=self.device)
            for start in range(0, shape[0], LOADED_AT_ONCE):
                rows = slice(start, min(start + LOADED_AT_ONCE, shape[0]))
                values = torch.from_numpy(self.data.latents.rows(name, rows))
                resident[name][rows] = values.to(self.device)
        size = _latent_bytes(self.data) / 1e9
        log.info("latents: %.1f GB are in the memory of %s", size, self.device)
        return resident


def plan_parts(plan: StepPlan, *, rank: int, world: int, accumulation: int) -> list[StepPlan]:
    """The parts of a step for `rank`, one for each accumulation step."""
    first, parts = rank * accumulation, world * accumulation
    return [plan.part(first + micro, parts) for micro in range(accumulation)]


def _is_resident(data: TrainingData, device: torch.device, latents: str) -> bool:
    if latents != "auto":
        return latents == "resident"
    if device.type != "cuda":
        return False
    memory = torch.cuda.get_device_properties(device).total_memory
    return _latent_bytes(data) <= RESIDENT_SHARE * memory


def _latent_bytes(data: TrainingData) -> int:
    latents = data.latents
    return sum(latents.dtype(name).itemsize * math.prod(latents.shape(name)) for name in MOMENTS)


def tensors_of(batch: MicroBatch) -> list[Tensor]:
    """All tensors of a micro-batch."""
    plain = [batch.mean, batch.std, batch.rows, batch.labels, batch.times, batch.draw]
    return [*plain, *batch.tokens.values(), *batch.attention.values()]


def _torch_type(kind: Any) -> torch.dtype:
    return getattr(torch, kind.name)
