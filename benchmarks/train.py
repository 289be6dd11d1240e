"""Training steps by the clock on synthetic data: images/s, the parts of a step, memory."""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.experiment import random_objective, timed_run
from benchmarks.measure import (
    StepClock,
    machine,
    machine_text,
    matrix_peak,
    seconds_of,
    write_record,
)
from benchmarks.synthetic import write_critics, write_training_data
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.resolved import RunConfig
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.report.cost import training_flops
from vrpo.runtime.distributed import Ranks
from vrpo.runtime.memory import peak_of, tensor_bytes
from vrpo.training.backend import configure_backend
from vrpo.training.trainer import Trainer

log = logging.getLogger(__name__)
WARM_UP = 3  # steps, the first of which compiles


def bench_train(
    config: ExperimentConfig,
    names: Sequence[str],
    device: torch.device,
    *,
    steps: int,
    rounds: int,
    samples: int,
    output: Path | None = None,
) -> dict[str, Any]:
    """Time `steps` steps of each run in turn, `rounds` times: all of them meet the same machine.

    Args:
        config: the experiment.
        names: of its runs; overheads are of each over the one before.
        device: where; the clock is the GPU's own there.
        steps: in a row, of one run.
        rounds: of all runs.
        samples: in the synthetic data set.
        output: JSON file to write, or None.

    Returns:
        The record that `table` shows.

    Raises:
        UserError: runs that do not exist or differ in their networks, or a setting that this
            machine does not know.
    """
    runs = comparable_runs(config, names)
    encoders = [name for run in runs for name in run.alignment.encoders]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_training_data(config, encoders, folder, samples)
        critics = write_critics(config, data, folder)
        contenders = {run.run: _Contender(run, data, critics, device) for run in runs}
        for name, contender in contenders.items():
            log.info("warming up: %s", name)
            contender.run(WARM_UP)
            contender.measure_memory()
            contender.forget()
        for _ in range(rounds):
            for contender in contenders.values():
                contender.run(steps)
        for contender in contenders.values():
            contender.trainer.feed.close()
    peak = matrix_peak(config.training.precision, device)
    record: dict[str, Any] = {
        "experiment": config.experiment,
        "model": runs[0].model.model_dump(mode="json"),
        "settings": config.training.model_dump(mode="json"),
        "backend": contenders[runs[0].run].backend,
        "machine": machine(device),
        "steps": steps * rounds,
        "critic": {"width": config.critic.width, "depth": config.critic.depth},
        "matrix_peak_tflops": peak / 1e12,
        "load_after": os.getloadavg()[0],
        "runs": {
            name: contender.summary(training_flops(contender.config, config), peak)
            for name, contender in contenders.items()
        },
    }
    _add_overheads(record["runs"])
    write_record(output, record)
    return record


def comparable_runs(config: ExperimentConfig, names: Sequence[str]) -> list[RunConfig]:
    """Runs by name.

    Raises:
        UserError: one does not exist or is given twice, or their networks differ in size.
    """
    runs = [timed_run(config, name) for name in names]
    for index, run in enumerate(runs):
        if run.run in names[:index]:
            raise UserError(f"RUN: `{run.run}` is given twice; give each run once")
        if run.model.model_dump(exclude={"name"}) != runs[0].model.model_dump(exclude={"name"}):
            raise UserError(
                f"RUN: `{run.run}` has the network {run.model.name}, `{runs[0].run}` has "
                f"{runs[0].model.name}; time networks of different size one after the other"
            )
    return runs


def table(record: dict[str, Any]) -> str:
    """A record for people."""
    settings, runs = record["settings"], record["runs"]
    compiled = "compiled" if settings["compile"] else "eager"
    parts = dict.fromkeys(part for run in runs.values() for part in run["parts"])
    show: dict[str, Callable[[dict[str, Any]], str]] = {
        "images/s": lambda run: f"{run['images_per_second']:.2f}",
        "step, ms": lambda run: f"{1e3 * run['seconds']:.1f}",
        **{
            f"  {part}, ms": lambda run, part=part: f"{1e3 * run['parts'].get(part, 0):.1f}"
            for part in parts
        },
        "slower than the one before": lambda run: _percent(run, "overhead_percent"),
        "  of that, FLOPs": lambda run: _percent(run, "flops_overhead_percent"),
        "GFLOP an image": lambda run: f"{sum(run['flops'].values()) / 1e9:.4g}",
        "share of the matrix peak": lambda run: f"{run['utilisation']:.1%}",
        "memory, GB": lambda run: f"{(run['state_bytes'] + run['step_bytes']) / 1e9:.2f}",
        "  of that, weights and states": lambda run: f"{run['state_bytes'] / 1e9:.2f}",
    }
    rows = [
        ("", list(runs)),
        *((label, [text(run) for run in runs.values()]) for label, text in show.items()),
    ]
    width = 2 + max(10, *map(len, runs))
    return "\n".join(
        [
            f"{record['experiment']}, {record['model']['name']}, batch {settings['batch_size']}, "
            f"{settings['precision']}, {compiled}, attention {record['backend']['attention']}; "
            f"{machine_text(record)}; matrix peak {record['matrix_peak_tflops']:.2f} TFLOP/s; "
            f"{record['steps']} steps each",
            *(
                f"{label:30}" + "".join(f"{value:>{width}}" for value in values)
                for label, values in rows
            ),
        ]
    )


def _percent(run: Mapping[str, Any], name: str) -> str:
    return f"{run[name]:+.1f}%" if name in run else ""


class _Contender:
    """One run's trainer under the clock."""

    def __init__(
        self,
        config: RunConfig,
        data: TrainingData,
        critics: Mapping[str, Path],
        device: torch.device,
    ) -> None:
        self.config, self.device, options = config, device, config.training
        ranks, objective = Ranks(0, 1, device), random_objective(config, data, critics, device)
        self.backend = configure_backend(options, objective, ranks)
        self.clock = StepClock(device)
        self.trainer = Trainer(
            objective, data, options, seed=config.seed, ranks=ranks, mark=self.clock.mark
        )
        self.seconds: list[float] = []
        self.state_bytes = self.step_bytes = 0

    def run(self, steps: int) -> None:
        """Train `steps` steps."""
        (seconds,) = seconds_of(lambda: self._steps(steps), self.device, 1)
        self.seconds.append(seconds / steps)
        self.trainer.totals.take()

    def measure_memory(self) -> None:
        """Measure the memory of this training alone: between steps, and what a step adds to it."""
        critics = self.trainer.objective.alignment.context.critics
        frozen = [critic.state_dict() for critic in critics.values()]
        self.state_bytes = tensor_bytes([self.trainer.state_dict(), frozen])
        self.step_bytes = peak_of(lambda: self._steps(1), self.device)

    def forget(self) -> None:
        """Drop the times so far."""
        self.seconds = []
        self.clock.forget()

    def summary(self, flops: dict[str, float], peak: float) -> dict[str, Any]:
        """Part of the record, for `flops` an image on a machine with a `peak` in FLOP/s."""
        seconds = statistics.median(self.seconds)
        rate = self.config.training.batch_size / seconds
        return {
            "network": self.config.model.name,
            "alignment": self.config.alignment.model_dump(mode="json"),
            "images_per_second": rate,
            "seconds": seconds,
            "fastest_seconds": min(self.seconds),
            "parts": self.clock.medians(),
            "flops": flops,
            "utilisation": rate * sum(flops.values()) / peak,
            "state_bytes": self.state_bytes,
            "step_bytes": self.step_bytes,
        }

    def _steps(self, count: int) -> None:
        for _ in range(count):
            self.clock.begin()
            self.trainer.train_step()


def _add_overheads(runs: dict[str, dict[str, Any]]) -> None:
    """Add how much slower each run is than the one before, and how much more it computes, in %."""
    for before, after in zip(list(runs), list(runs)[1:], strict=False):
        ratio = runs[after]["seconds"] / runs[before]["seconds"]
        flops = sum(runs[after]["flops"].values()) / sum(runs[before]["flops"].values())
        runs[after] |= {
            "over": before,
            "overhead_percent": 100 * (ratio - 1),
            "flops_overhead_percent": 100 * (flops - 1),
        }
