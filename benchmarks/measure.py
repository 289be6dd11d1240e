"""Measurements: the parts of a training step, the peak of matrix products, memory."""

from __future__ import annotations

import itertools
import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vrpo.files import write_text
from vrpo.runtime.machine import processor
from vrpo.seeds import torch_generator

MATRIX_SIDE = {"cuda": 8192, "cpu": 2048}


class StepClock:
    """Times of the parts of steps: between events on a GPU's queue, or by a CPU's wall clock.

    The queue is not waited for in between. `Trainer` calls `mark`; call `begin` before each step.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.forget()

    def forget(self) -> None:
        """Drop all times."""
        self._steps: list[list[tuple[str, torch.cuda.Event | float]]] = []

    def begin(self) -> None:
        """Before a step."""
        self._steps.append([("", self._now())])

    def mark(self, part: str) -> None:
        """After a part of it."""
        self._steps[-1].append((part, self._now()))

    def medians(self) -> dict[str, float]:
        """Median seconds of each part."""
        steps = [self._parts(marks) for marks in self._steps]
        return {part: statistics.median(step[part] for step in steps) for part in steps[0]}

    def _parts(self, marks: list[tuple[str, torch.cuda.Event | float]]) -> dict[str, float]:
        parts: dict[str, float] = {}
        for (_, before), (part, after) in itertools.pairwise(marks):
            seconds = before.elapsed_time(after) / 1e3 if self.on_gpu else after - before
            parts[part] = parts.get(part, 0.0) + seconds
        return parts

    def _now(self) -> torch.cuda.Event | float:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Wall seconds of each of `repeats` calls; the GPU's queue is empty before and after."""
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return times


def matrix_peak(precision: str, device: torch.device) -> float:
    """FLOP/s of a large square matrix product in the type of `precision`, the best of several."""
    side = MATRIX_SIDE[device.type]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    generators = (torch_generator("bench-matrix", index, device=device) for index in range(2))
    a, b = (
        torch.randn(side, side, device=device, generator=generator).to(kind)
        for generator in generators
    )
    return 2 * side**3 / min(seconds_of(lambda: a @ b, device, 12)[2:])


def peak_memory(device: torch.device) -> float:
    """Most bytes in use at once: of the GPU since the last reset, or of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def cpu_seconds() -> float:
    """User and system seconds of this process and its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def machine(device: torch.device) -> dict[str, object]:
    """Machine and versions of the measurement."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def machine_text(record: Mapping[str, Any]) -> str:
    """The `machine` of a record for people."""
    found = record["machine"]
    return f"{found['device']}, {found['threads']} threads, torch {found['torch']}"


def write_record(output: Path | None, record: Mapping[str, Any]) -> None:
    """Write `record` as JSON, if there is an `output`."""
    if output is not None:
        write_text(output, json.dumps(record, indent=2) + "\n")
