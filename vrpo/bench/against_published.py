"""Our REPA training step and the published loop's in turn, A B A B, on one network, one machine and as many threads, data read by both."""

from __future__ import annotations

import json
import logging
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vrpo.bench.measure import machine, matrix_peak
from vrpo.bench.paper import PaperModel
from vrpo.bench.published_loop import PublishedLoop, write_single_files
from vrpo.bench.synthetic import write_training_data
from vrpo.bench.train import WARM_UP
from vrpo.config.training import TrainingOptions
from vrpo.files import write_text
from vrpo.runtime.distributed import Ranks
from vrpo.training.backend import configure_backend
from vrpo.training.trainer import Trainer

log = logging.getLogger(__name__)


def bench_against_published(
    model: PaperModel,
    settings: TrainingOptions,
    published_precision: str,
    device: torch.device,
    *,
    steps: int,
    rounds: int,
    samples: int,
    workers: int,
    output: Path | None = None,
) -> dict[str, Any]:
    """Time `steps` steps of the one and the other in turn, `rounds` times.

    Args:
        model: the network of both.
        settings: of our training.
        published_precision: `fp32` or `bf16`, of the other; its default, fp16, has no fast kernels on CPUs.
        device: of both.
        steps: in a row.
        rounds: of both.
        samples: in either's data set.
        workers: reading processes of the published loop.
        output: JSON file to write, or None.

    Returns:
        Seconds of a step of each (median over rounds, wall and CPU) and their ratio.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "single").mkdir()
        write_single_files(folder / "single", samples)
        data = write_training_data(folder, samples)
        published = PublishedLoop(
            model,
            folder / "single",
            batch_size=settings.batch_size,
            precision=published_precision,
            workers=workers,
            device=device,
        )
        objective, ranks = model.build_objective("repa", settings, device), Ranks(0, 1, device)
        backend = configure_backend(settings, objective, ranks)
        ours = Trainer(objective, data, settings, seed=0, ranks=ranks)
        clocks = {
            "published": _Clock(published.step, device),
            "ours": _Clock(_logging_step(ours), device),
        }
        for who, clock in clocks.items():
            log.info("warming up: %s", who)
            clock.run(WARM_UP)
            clock.forget()
        for _ in range(rounds):
            for clock in clocks.values():
                clock.run(steps)
        ours.feed.close()
    seconds = {
        who: {"wall": statistics.median(clock.wall), "cpu": statistics.median(clock.cpu)}
        for who, clock in clocks.items()
    }
    floor = (
        settings.batch_size
        * sum(model.flops("repa").values())
        / matrix_peak(settings.precision, device)
    )
    record = {
        "model": model.name,
        "batch_size": settings.batch_size,
        "precision": {"published": published_precision, "ours": settings.precision},
        "settings": settings.model_dump(mode="json"),
        "backend": backend,
        "machine": machine(device),
        "reading_processes_of_published": workers,
        "rounds": rounds,
        "steps_a_round": steps,
        "seconds_a_step": seconds,
        "ratio": seconds["published"]["wall"] / seconds["ours"]["wall"],
        "ratio_of_rounds": sorted(
            a / b for a, b in zip(clocks["published"].wall, clocks["ours"].wall, strict=True)
        ),
        "matrix_products_alone": floor,
        "load_after": os.getloadavg()[0],
    }
    if output is not None:
        write_text(output, json.dumps(record, indent=2) + "\n")
    return record


def table(record: dict[str, Any]) -> str:
    """A record for people."""
    wall = {who: seconds["wall"] for who, seconds in record["seconds_a_step"].items()}
    cpu = {who: seconds["cpu"] for who, seconds in record["seconds_a_step"].items()}
    spread = f"{record['ratio_of_rounds'][0]:.2f} to {record['ratio_of_rounds'][-1]:.2f}"
    machine = f"{record['machine']['device']}, {record['machine']['threads']} threads, torch {record['machine']['torch']}, load {record['load_after']:.1f}"
    ours = f"ours ({record['precision']['ours']}, {'compiled' if record['settings']['compile'] else 'eager'})"
    theirs = f"published loop ({record['precision']['published']}, eager)"
    return "\n".join(
        [
            f"{record['model']} + REPA, batch {record['batch_size']}, data read by both; {machine}",
            f"  {theirs:34} {wall['published']:8.3f} s a step, {cpu['published']:8.3f} s of CPU time",
            f"  {ours:34} {wall['ours']:8.3f} s a step, {cpu['ours']:8.3f} s of CPU time",
            f"  matrix products alone, at the peak of ours: {record['matrix_products_alone']:.3f} s",
            f"  ratio {record['ratio']:.2f} (rounds: {spread})",
        ]
    )


def _logging_step(trainer: Trainer) -> Callable[[], None]:
    """A step of ours, whose sums are read every 100 steps."""

    def step() -> None:
        trainer.train_step()
        if trainer.step % 100 == 0:
            torch.stack(list(trainer.totals.values())).tolist()
            trainer.totals = {}

    return step


class _Clock:
    """Wall and CPU seconds of a step, run by run; CPU time with that of the reading processes that have ended."""

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self.step, self.device = step, device
        self.forget()

    def forget(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def run(self, steps: int) -> None:
        """Run and time `steps` steps."""
        start, cpu_start = time.perf_counter(), _cpu_seconds()
        for _ in range(steps):
            self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.wall.append((time.perf_counter() - start) / steps)
        self.cpu.append((_cpu_seconds() - cpu_start) / steps)


def _cpu_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)
