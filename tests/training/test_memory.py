"""A training that gets too little memory: what it needs is measured, and a remedy is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vrpo.config import RunConfig
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.runtime.distributed import Ranks
from vrpo.training import memory
from vrpo.training.building import build_objective
from vrpo.training.memory import Need, fitting, measured_need, too_little_memory
from vrpo.training.trainer import Trainer

from tests.fixtures.training import Toy, assert_same_results

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
MORE_THAN_THERE_IS = 1 << 50


def trainer_of(toy: Toy, config: RunConfig) -> Trainer:
    inputs = toy.inputs(config)
    data = TrainingData(inputs["latents"], inputs["features"])
    objective = build_objective(config, data, inputs["critics"], CPU)
    return Trainer(objective, data, config.training, seed=3, ranks=Ranks(0, 1, CPU))


def failing_at(step: int) -> Callable[[Trainer], None]:
    """`Trainer.train_step`, which asks for too much memory at `step`."""
    train_step = Trainer.train_step

    def replaced(self: Trainer) -> None:
        if self.step == step:
            torch.empty(MORE_THAN_THERE_IS)
        train_step(self)

    return replaced


def test_the_step_that_gets_no_memory_is_told_and_loses_nothing(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.config()
    toy.train_to(config, tmp_path / "whole", 20)
    toy.train_to(config, tmp_path / "failed", 7)
    with monkeypatch.context() as patched, pytest.raises(UserError) as refused:
        patched.setattr(Trainer, "train_step", failing_at(11))
        toy.train_to(config, tmp_path / "failed", 20)
    text = str(refused.value)
    assert text.startswith("training.batch_size: the memory of this machine, ")
    assert "is too small for 8 samples at a time, which take about 0.0 GiB" in text
    assert "(4,194,304.00 GiB more were wanted); end what else uses that memory" in text
    assert "\n" not in text
    toy.train_to(config, tmp_path / "failed", 20)
    assert_same_results(tmp_path / "whole", tmp_path / "failed", 20)


def test_other_failures_are_not_called_too_little_memory(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Trainer) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(Trainer, "train_step", broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        toy.train_to(toy.config(), tmp_path, 1)


@pytest.mark.parametrize("alignment", ["none", "contrastive", "reg", "sra", "vrpo"])
def test_a_remedy_that_fits_is_named(
    toy: Toy, alignment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.config(alignment, batch_size=32)
    trainer = trainer_of(toy, config)
    need = measured_need(trainer)
    assert need.fixed > 0 and need.sample > 0
    room = need.of(16)  # for half of the samples at a time
    monkeypatch.setattr(memory, "memory_of", lambda device: round(room / memory.USABLE) + 1)
    assert "set training.accumulation: 2 (about" in too_little_memory(trainer, "")
    states = need.fixed / memory.USABLE
    monkeypatch.setattr(memory, "memory_of", lambda device: round(states))
    text = too_little_memory(trainer, "")
    assert "accumulation" not in text
    assert text.endswith("; set training.activation_checkpointing: true, or use more GPUs than 1")
    trainer.feed.close()


def test_a_measurement_without_memory_says_so(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(toy, toy.config())
    monkeypatch.setattr(memory, "peak_of", lambda *_: torch.empty(MORE_THAN_THERE_IS))
    text = too_little_memory(trainer, "")
    assert "for 8 samples at a time, and even for 4; end what else" in text
    trainer.feed.close()


def test_sizes_that_fit_are_whole_groups() -> None:
    need = Need(100, 10.0)
    assert fitting(need, 24, 1, 340) == 24
    assert fitting(need, 24, 1, 339) == 12
    assert fitting(need, 24, 8, 339) == 8
    assert fitting(need, 24, 8, 179) is None
