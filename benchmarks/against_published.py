"""Our REPA training step and the published loop's in turn: one network, machine and batch size."""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.experiment import random_objective, timed_run
from benchmarks.measure import cpu_seconds, machine, machine_text, matrix_peak, write_record
from benchmarks.published_loop import PublishedLoop, write_single_files
from benchmarks.synthetic import write_training_data
from benchmarks.train import WARM_UP
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.resolved import RunConfig
from vrpo.errors import UserError
from vrpo.report.cost import training_flops
from vrpo.runtime.distributed import Ranks
from vrpo.training.backend import configure_backend
from vrpo.training.trainer import Trainer

log = logging.getLogger(__name__)


def bench_against_published(
    config: ExperimentConfig,
    name: str,
    device: torch.device,
    *,
    published_precision: str,
    workers: int,
    steps: int,
    rounds: int,
    samples: int,
    output: Path | None = None,
) -> dict[str, Any]:
    """Time `steps` steps of the one and the other in turn, `rounds` times.

    Args:
        config: the experiment.
        name: of one of its runs of REPA on SiT.
        device: of both.
        published_precision: `fp32` or `bf16`, of the published loop; its default, fp16, has no
            fast kernels on CPUs.
        workers: reading processes of the published loop.
        steps: in a row.
        rounds: of both.
        samples: in either's data set.
        output: JSON file to write, or None.

    Returns:
        Seconds of a step of each (median over rounds, wall and CPU) and their ratio.

    Raises:
        UserError: there is no such run, or the published loop does not train it.
    """
    run = published_run(config, name)
    options = run.training
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "single").mkdir()
        write_single_files(config, run.alignment.encoders[0], folder / "single", samples)
        data = write_training_data(config, run.alignment.encoders, folder, samples)
        published = PublishedLoop(
            random_objective(run, data, {}, device),
            folder / "single",
            batch_size=options.batch_size,
            precision=published_precision,
            workers=workers,
            device=device,
        )
        objective, ranks = random_objective(run, data, {}, device), Ranks(0, 1, device)
        backend = configure_backend(options, objective, ranks)
        ours = Trainer(objective, data, options, seed=run.seed, ranks=ranks)
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
    work = options.batch_size * sum(training_flops(run, config).values())
    pairs = zip(clocks["published"].wall, clocks["ours"].wall, strict=True)
    record = {
        "experiment": config.experiment,
        "run": run.run,
        "model": run.model.model_dump(mode="json"),
        "precision": {"published": published_precision, "ours": options.precision},
        "settings": options.model_dump(mode="json"),
        "backend": backend,
        "machine": machine(device),
        "reading_processes_of_published": workers,
        "rounds": rounds,
        "steps_a_round": steps,
        "seconds_a_step": seconds,
        "ratio": seconds["published"]["wall"] / seconds["ours"]["wall"],
        "ratio_of_rounds": sorted(published / ours for published, ours in pairs),
        "matrix_products_alone": work / matrix_peak(options.precision, device),
        "load_after": os.getloadavg()[0],
    }
    write_record(output, record)
    return record


def published_run(config: ExperimentConfig, name: str) -> RunConfig:
    """A run that the published loop trains.

    Raises:
        UserError: there is no such run, or it is none of REPA with one encoder on SiT.
    """
    run = timed_run(config, name)
    alignment, process = run.alignment, run.process
    on_sit = process.kind == "interpolant" and (process.path, process.time) == ("linear", "uniform")
    if alignment.kind != "repa" or len(alignment.encoders) != 1 or not on_sit:
        raise UserError(
            f"RUN: `{name}` is not what the published loop trains, REPA with one encoder on SiT's "
            "linear path with uniform times; name a run of this kind, e.g. sit-xl2-repa"
        )
    return run


def table(record: dict[str, Any]) -> str:
    """A record for people."""
    wall = {who: seconds["wall"] for who, seconds in record["seconds_a_step"].items()}
    cpu = {who: seconds["cpu"] for who, seconds in record["seconds_a_step"].items()}
    spread = f"{record['ratio_of_rounds'][0]:.2f} to {record['ratio_of_rounds'][-1]:.2f}"
    compiled = "compiled" if record["settings"]["compile"] else "eager"
    labels = {
        "published": f"published loop ({record['precision']['published']}, eager)",
        "ours": f"ours ({record['precision']['ours']}, {compiled})",
    }
    return "\n".join(
        [
            f"{record['experiment']}, {record['run']} ({record['model']['name']}), "
            f"batch {record['settings']['batch_size']}, data read by both; "
            f"{machine_text(record)}, load {record['load_after']:.1f}",
            *(
                f"  {label:34} {wall[who]:8.3f} s a step, {cpu[who]:8.3f} s of CPU time"
                for who, label in labels.items()
            ),
            "  matrix products alone, at the peak of ours: "
            f"{record['matrix_products_alone']:.3f} s",
            f"  ratio {record['ratio']:.2f} (rounds: {spread})",
        ]
    )


def _logging_step(trainer: Trainer) -> Callable[[], None]:
    """A step of ours, whose sums are read every 100 steps."""

    def step() -> None:
        trainer.train_step()
        if trainer.step % 100 == 0:
            trainer.totals.take()

    return step


class _Clock:
    """Wall and CPU seconds of a step, run by run; CPU time with that of ended child processes."""

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self.step, self.device = step, device
        self.forget()

    def forget(self) -> None:
        """Drop the times so far."""
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def run(self, steps: int) -> None:
        """Run and time `steps` steps."""
        start, cpu_start = time.perf_counter(), cpu_seconds()
        for _ in range(steps):
            self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.wall.append((time.perf_counter() - start) / steps)
        self.cpu.append((cpu_seconds() - cpu_start) / steps)
