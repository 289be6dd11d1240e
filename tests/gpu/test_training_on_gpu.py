"""Properties of the trainer that only a GPU shows.

Copies on separate streams, kernels chosen by measurement, states taken while steps run.
"""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.experiment import random_objective, timed_run
from benchmarks.sample import bench_sample
from benchmarks.synthetic import write_training_data
from benchmarks.train import bench_train
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.reading import read_experiment
from vrpo.models.attention import SWITCHES, choose_attention
from vrpo.runtime.distributed import Ranks
from vrpo.runtime.memory import failed_size, is_out_of_memory, memory_of, peak_of
from vrpo.training import memory
from vrpo.training.feed import Feed
from vrpo.training.memory import measured_need, too_little_memory
from vrpo.training.plan import StepPlan
from vrpo.training.state import Snapshot
from vrpo.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
IMAGENET = Path(__file__).parents[2] / "config/imagenet256.yaml"
ENCODER = "dinov2-b"


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", 0)


def plans(step: int) -> list[StepPlan]:
    indices = (np.arange(16) * 7 + 16 * step) % 64
    return [
        StepPlan(
            indices, torch.arange(16) / 16, torch.zeros(16, dtype=torch.bool), torch.arange(16)
        )
    ]


@pytest.mark.parametrize("latents", ["mapped", "resident"])
def test_batches_read_ahead_are_those_of_the_cpu(
    device: torch.device, tmp_path: Path, latents: str
) -> None:
    """Many steps, with work on the main stream in between, would show a buffer used too early."""
    data = write_training_data(experiment(), [ENCODER], tmp_path, 64)
    feed = Feed(
        data,
        plans,
        device=device,
        encoders=(ENCODER,),
        attention=False,
        class_token=False,
        null_label=1000,
        latents=latents,
    )
    work = torch.randn(2048, 2048, device=device)
    for step in range(40):
        (batch,) = feed.take(step)
        work = (work @ work).tanh()
        expected = data.gather(plans(step)[0].indices)
        torch.testing.assert_close(
            batch.tokens[ENCODER].cpu(), expected.tokens[ENCODER], rtol=0, atol=0
        )
        torch.testing.assert_close(batch.mean.cpu(), expected.mean, rtol=0, atol=0)
    feed.close()


def experiment(**training: object) -> ExperimentConfig:
    """The paper's, with runs `none`, `repa` and `vrpo` of SiT-S/2."""
    own = "{kind: vrpo, encoders: [dinov2-b], depth: 4, rewards: {fidelity: {pathwise: 0.05}}}"
    alignments = {"none": "none", "repa": "repa-b", "vrpo": "own"}
    runs = [
        f"runs.{name}={{model: S/2, process: sit, alignment: {alignment}}}"
        for name, alignment in alignments.items()
    ]
    settings = [f"training.{name}={value}" for name, value in training.items()]
    return read_experiment([IMAGENET], [f"alignments.own={own}", *runs, *settings])


def trainer(device: torch.device, folder: Path, alignment: str, **changes: object) -> Trainer:
    plain = {"batch_size": 16, "tf32": False, "precision": "fp32", "compile": False}
    config = experiment(**{**plain, **changes})
    run = timed_run(config, alignment)
    data = write_training_data(config, [ENCODER], folder, 64)
    objective = random_objective(run, data, {}, device)
    return Trainer(objective, data, run.training, seed=0, ranks=Ranks(0, 1, device))


@pytest.mark.parametrize("alignment", ["none", "repa", "vrpo"])
def test_a_state_is_what_it_was_when_taken(
    device: torch.device, tmp_path: Path, alignment: str
) -> None:
    """Steps issued right after the snapshot do not reach it.

    A trainer that resumes from it does the same steps.
    """
    first = trainer(device, tmp_path, alignment)
    for _ in range(3):
        first.train_step()
    before = {name: values.clone() for name, values in first.objective.state_dict().items()}
    copied, arrived = Snapshot().take(first.state_dict())
    for _ in range(3):
        first.train_step()
    arrived()
    for name, values in before.items():
        assert torch.equal(copied["objective"][name], values.cpu()), name
    second = trainer(device, tmp_path, alignment)
    second.load_state_dict(copied)
    for _ in range(3):
        second.train_step()
    for one, other in zip(first.parameters, second.parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    first.feed.close()
    second.feed.close()


@pytest.mark.parametrize(
    "change",
    [
        {"compile": True},
        {"activation_checkpointing": True},
        {"compile": True, "activation_checkpointing": True},
    ],
)
def test_compiled_and_checkpointed_steps_are_the_plain_ones(
    device: torch.device, tmp_path: Path, change: dict[str, bool]
) -> None:
    weights = []
    for changes in ({}, change):
        one = trainer(device, tmp_path, "vrpo", **changes)
        for _ in range(3):
            one.train_step()
        one.feed.close()
        weights.append([parameter.detach().clone() for parameter in one.parameters])
    for plain, changed in zip(*weights, strict=True):
        torch.testing.assert_close(changed, plain, rtol=1e-3, atol=1e-4)


def test_a_step_waits_for_nothing_on_the_host(device: torch.device, tmp_path: Path) -> None:
    """No synchronisation inside a step, reading included: PyTorch raises at one in this mode."""
    one = trainer(device, tmp_path, "vrpo", precision="bf16")
    for _ in range(3):
        one.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        one.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        one.feed.close()


def test_a_step_that_gets_no_memory_is_told_what_it_needs(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hungry = trainer(device, tmp_path, "vrpo", batch_size=64)
    hungry.train_step()
    gc.collect()  # trainers of earlier tests
    states = torch.cuda.memory_allocated(device)
    taken = peak_of(hungry.train_step, device)
    need = measured_need(hungry)
    assert need.of(64) == pytest.approx(states + taken, rel=0.3)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(need.of(16) / memory_of(device), device)
    try:
        with pytest.raises(torch.OutOfMemoryError) as failed:
            hungry.train_step()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert is_out_of_memory(failed.value) and failed_size(str(failed.value))
    del failed
    monkeypatch.setattr(memory, "memory_of", lambda device: round(1.1 * need.of(32)))
    assert "; set training.accumulation: 2 (about" in too_little_memory(hungry, "")
    hungry.feed.close()


def test_attention_is_chosen_by_measurement(device: torch.device) -> None:
    try:
        assert choose_attention("auto", (8, 16, 256, 72), torch.bfloat16, device) in SWITCHES
        assert choose_attention("math", (8, 16, 256, 72), torch.bfloat16, device) == "math"
    finally:
        for switch in SWITCHES.values():
            switch(True)


def test_benchmarks(device: torch.device) -> None:
    config, runs = experiment(batch_size=64), ["none", "repa", "vrpo"]
    record = bench_train(config, runs, device, steps=5, rounds=2, samples=128)
    assert all(each["utilisation"] > 0.02 for each in record["runs"].values())
    sampled = bench_sample(config, "none", "sde", device, timed_steps=5, decode=False)
    assert sampled["images_per_second"] > 0
