"""The benchmark of training runs, and counts the memory of each training alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.experiment import random_objective, timed_run
from benchmarks.synthetic import write_critics, write_training_data
from benchmarks.train import bench_train, comparable_runs, table
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.reading import read_experiment
from vrpo.errors import UserError
from vrpo.runtime.distributed import Ranks
from vrpo.runtime.memory import peak_of, tensor_bytes
from vrpo.training.memory import measured_need
from vrpo.training.trainer import Trainer

RUNS = ["none", "repa", "vrpo", "perceptual"]


def test_training_bench(small: ExperimentConfig, cpu: torch.device, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    record = bench_train(small, RUNS, cpu, steps=2, rounds=2, samples=16, output=output)
    assert json.loads(output.read_text()) == json.loads(json.dumps(record))
    assert record["settings"]["batch_size"] == 8 and record["critic"] == {"width": 8, "depth": 1}
    repa, vrpo, perceptual = (record["runs"][name] for name in RUNS[1:])
    assert vrpo["flops"] == repa["flops"]
    assert perceptual["flops"]["critic"] > 0 == repa["flops"]["critic"]
    assert (vrpo["over"], perceptual["over"]) == ("repa", "vrpo")
    for form in (vrpo, perceptual):
        assert {"data", "forward", "backward", "optimiser", "average"} <= form["parts"].keys()
        assert all(seconds >= 0 for seconds in form["parts"].values()) and form["seconds"] > 0
    shown = table(record).splitlines()
    assert shown[1].split() == RUNS and shown[2].startswith("images/s")
    assert len({len(line) for line in shown[1:]}) == 1  # columns are below their names


def test_the_memory_of_a_training_does_not_hold_the_others(
    small: ExperimentConfig, cpu: torch.device, tmp_path: Path
) -> None:
    """All are in memory at once when one is measured. A few bytes differ, as threads read ahead."""
    once = {"steps": 1, "rounds": 1, "samples": 16}
    together = bench_train(small, RUNS, cpu, **once)["runs"]
    alone = bench_train(small, ["perceptual"], cpu, **once)["runs"]["perceptual"]
    for measured in ("state_bytes", "step_bytes"):
        assert together["perceptual"][measured] == pytest.approx(alone[measured], rel=0.05)
        assert 2 * together["none"][measured] < together["repa"][measured]  # with its projector
        assert together["vrpo"][measured] == pytest.approx(together["repa"][measured], rel=0.05)
    data = write_training_data(small, ["dinov2-b"], tmp_path, 8)
    critics = write_critics(small, data, tmp_path)
    for name, measured in together.items():
        objective = random_objective(timed_run(small, name), data, critics, cpu)
        trained = [each for each in objective.parameters() if each.requires_grad]
        gradients = 4 * sum(parameter.numel() for parameter in trained)
        # weights, their average, two moments; small buffers
        assert measured["state_bytes"] == pytest.approx(4 * gradients, rel=0.2)
        assert measured["step_bytes"] > gradients


@pytest.mark.parametrize("name", ["repa", "vrpo", "sit-s2-none"])
def test_the_need_of_a_step_follows_from_a_few_samples(
    small: ExperimentConfig, cpu: torch.device, tmp_path: Path, name: str
) -> None:
    """Also where gradients take more than the activations of those, as in S/2.

    It is a little more than what a step takes, whose gradients come as its activations go.
    """
    run = timed_run(small, name)
    data = write_training_data(small, run.alignment.encoders, tmp_path, 8)
    objective = random_objective(run, data, {}, cpu)
    trainer = Trainer(objective, data, run.training, seed=0, ranks=Ranks(0, 1, cpu))
    trainer.train_step()
    taken = peak_of(trainer.train_step, cpu) + tensor_bytes(trainer.state_dict())
    need = measured_need(trainer).of(run.training.batch_size)
    trainer.feed.close()
    assert taken < need < 1.25 * taken


def test_runs_that_cannot_be_compared_are_refused(small: ExperimentConfig) -> None:
    assert [run.run for run in comparable_runs(small, ["none", "dit"])] == ["none", "dit"]
    with pytest.raises(UserError, match="`repa` is given twice"):
        comparable_runs(small, ["repa", "none", "repa"])
    with pytest.raises(UserError, match="has the network SiT-S/2, `none` has SiT-small/2"):
        comparable_runs(small, ["none", "sit-s2-none"])


def test_a_batch_that_groups_do_not_divide_is_refused(configs: list) -> None:
    with pytest.raises(UserError, match="groups of 8 rollouts do not divide the 4 samples"):
        read_experiment(configs, ["training.accumulation=2"])
