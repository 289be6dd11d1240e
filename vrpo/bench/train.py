"""The training step by the clock: images/s, where its time goes, and what REPA and VRPO add, on synthetic data."""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from vrpo.bench.measure import StepClock, machine, matrix_peak, peak_of, seconds_of, tensor_bytes
from vrpo.bench.paper import PaperModel
from vrpo.bench.synthetic import write_training_data
from vrpo.config.training import TrainingOptions
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.files import write_text
from vrpo.runtime.distributed import Ranks
from vrpo.training.backend import configure_backend
from vrpo.training.trainer import Trainer

log = logging.getLogger(__name__)
WARM_UP = 3  # steps, the first of which compiles


def bench_train(
    model: PaperModel,
    alignments: list[str],
    settings: TrainingOptions,
    device: torch.device,
    *,
    steps: int,
    rounds: int,
    samples: int,
    output: Path | None = None,
) -> dict[str, Any]:
    """Time `steps` steps of each alignment in turn, `rounds` times, so that all of them meet the same machine.

    Args:
        model: the network.
        alignments: of `vrpo.bench.paper.ALIGNMENTS`; overheads are of each over the one before.
        settings: of the training.
        device: where; the clock is the GPU's own there.
        steps: in a row, of one alignment.
        rounds: of all alignments.
        samples: in the synthetic data set.
        output: JSON file to write, or None.

    Returns:
        The record that `table` shows.

    Raises:
        UserError: a setting that this machine does not know, or a batch that does not fit.
    """
    for name in alignments:
        try:
            settings.micro_batch(1, model.alignment(name).group)
        except ValueError as error:
            raise UserError(f"--batch, {name}: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        data = write_training_data(Path(folder), samples)
        contenders = {name: _Contender(model, name, settings, data, device) for name in alignments}
        for name, contender in contenders.items():
            log.info("warming up: %s, %s", model.name, name)
            contender.run(WARM_UP)
            contender.measure_memory()
            contender.forget()
        for _ in range(rounds):
            for contender in contenders.values():
                contender.run(steps)
        for contender in contenders.values():
            contender.trainer.feed.close()
    peak = matrix_peak(settings.precision, device)
    record: dict[str, Any] = {
        "model": model.name,
        "settings": settings.model_dump(mode="json"),
        "backend": contenders[alignments[0]].backend,
        "machine": machine(device),
        "steps": steps * rounds,
        "critic": {"width": model.critic[0], "depth": model.critic[1]},
        "matrix_peak_tflops": peak / 1e12,
        "load_after": os.getloadavg()[0],
        "alignments": {},
    }
    for name, contender in contenders.items():
        record["alignments"][name] = contender.summary(peak)
    _add_overheads(record["alignments"])
    if output is not None:
        write_text(output, json.dumps(record, indent=2) + "\n")
    return record


def table(record: dict[str, Any]) -> str:
    """A record for people."""
    where = f"{record['machine']['device']}, {record['machine']['threads']} threads, torch {record['machine']['torch']}"
    settings = record["settings"]
    lines = [
        f"{record['model']}, batch {settings['batch_size']}, {settings['precision']}, {'compiled' if settings['compile'] else 'eager'}, "
        f"attention {record['backend']['attention']}; {where}; matrix peak {record['matrix_peak_tflops']:.2f} TFLOP/s; {record['steps']} steps each",
    ]
    names = list(record["alignments"])
    parts = list(record["alignments"][names[-1]]["parts"])
    rows = [
        (
            "images/s",
            [f"{each['images_per_second']:.2f}" for each in record["alignments"].values()],
        ),
        ("step, ms", [f"{1e3 * each['seconds']:.1f}" for each in record["alignments"].values()]),
        *(
            (
                f"  {part}, ms",
                [
                    f"{1e3 * each['parts'].get(part, 0):.1f}"
                    for each in record["alignments"].values()
                ],
            )
            for part in parts
        ),
        (
            "slower than the one before",
            [
                f"{each['overhead_percent']:+.1f}%" if "overhead_percent" in each else ""
                for each in record["alignments"].values()
            ],
        ),
        (
            "  of that, FLOPs",
            [
                f"{each['flops_overhead_percent']:+.1f}%" if "overhead_percent" in each else ""
                for each in record["alignments"].values()
            ],
        ),
        (
            "GFLOP an image",
            [f"{sum(each['flops'].values()) / 1e9:.1f}" for each in record["alignments"].values()],
        ),
        (
            "share of the matrix peak",
            [f"{each['utilisation']:.1%}" for each in record["alignments"].values()],
        ),
        (
            "memory, GB",
            [
                f"{(each['state_bytes'] + each['step_bytes']) / 1e9:.2f}"
                for each in record["alignments"].values()
            ],
        ),
        (
            "  of that, weights and states",
            [f"{each['state_bytes'] / 1e9:.2f}" for each in record["alignments"].values()],
        ),
    ]
    width = 2 + max(10, *map(len, names))
    lines += [
        f"{label:30}" + "".join(f"{value:>{width}}" for value in values)
        for label, values in [("", names), *rows]
    ]
    return "\n".join(lines)


class _Contender:
    """One alignment's trainer under the clock."""

    def __init__(
        self,
        model: PaperModel,
        alignment: str,
        settings: TrainingOptions,
        data: TrainingData,
        device: torch.device,
    ) -> None:
        self.model, self.alignment, self.settings, self.device = model, alignment, settings, device
        ranks, objective = Ranks(0, 1, device), model.build_objective(alignment, settings, device)
        self.backend = configure_backend(settings, objective, ranks)
        self.clock = StepClock(device)
        self.trainer = Trainer(objective, data, settings, seed=0, ranks=ranks, mark=self.clock.mark)
        self.seconds: list[float] = []
        self.state_bytes = self.step_bytes = 0

    def run(self, steps: int) -> None:
        """Train `steps` steps."""
        (seconds,) = seconds_of(lambda: self._steps(steps), self.device, 1)
        self.seconds.append(seconds / steps)
        self.trainer.totals = {}

    def measure_memory(self) -> None:
        """Of this training alone, whatever else lies in memory: what rests between steps, and the most that one step adds to it."""
        critics = self.trainer.objective.alignment.context.critics
        frozen = [critic.state_dict() for critic in critics.values()]
        self.state_bytes = tensor_bytes([self.trainer.state_dict(), frozen])
        self.step_bytes = peak_of(lambda: self._steps(1), self.device)

    def forget(self) -> None:
        """Drop the times so far."""
        self.seconds = []
        self.clock.forget()

    def summary(self, peak: float) -> dict[str, Any]:
        """Its part of the record."""
        seconds, flops = statistics.median(self.seconds), self.model.flops(self.alignment)
        rate = self.settings.batch_size / seconds
        return {
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


def _add_overheads(alignments: dict[str, dict[str, Any]]) -> None:
    """How much slower each alignment is than the one before, and how much more it computes, in percent."""
    for before, after in zip(list(alignments), list(alignments)[1:], strict=False):
        ratio = alignments[after]["seconds"] / alignments[before]["seconds"]
        flops = sum(alignments[after]["flops"].values()) / sum(alignments[before]["flops"].values())
        alignments[after] |= {
            "over": before,
            "overhead_percent": 100 * (ratio - 1),
            "flops_overhead_percent": 100 * (flops - 1),
        }
