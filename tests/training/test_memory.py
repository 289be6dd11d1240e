"""A training that gets too little memory: what it needs is measured, and a remedy is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vrpo.config import RunConfig
from vrpo.config.messages import validate
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.runtime.distributed import Ranks
from vrpo.runtime.memory import peak_of
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
    assert "is too small for 8 samples at a time, which take about " in text
    assert "(could not allocate 4,194,304.00 GiB); stop other programs that use it" in text
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
    trainer = trainer_of(toy, toy.config(alignment, batch_size=32))
    need = measured_need(trainer)
    for samples, remedy in (
        (32, "stop other programs that use it, or set training.activation_checkpointing: true"),
        (16, "set training.accumulation: 2 (about 0.0 GiB), or set training.activation_check"),
    ):
        room = 1.01 * need.of(samples) / memory.USABLE
        monkeypatch.setattr(memory, "memory_of", lambda device, room=room: round(room))
        assert f"; {remedy}" in too_little_memory(trainer, "")
    monkeypatch.setattr(memory, "memory_of", lambda device: need.fixed)
    text = too_little_memory(trainer, "")
    assert text.endswith("; train a smaller model, or use a device with more memory")
    trainer.feed.close()


@pytest.mark.parametrize(("alignment", "batch"), [("none", 1), ("vrpo", 4)])
def test_the_need_of_one_group_is_that_of_a_step(toy: Toy, alignment: str, batch: int) -> None:
    """It cannot be compared with that of two. Weights take more than activations here."""
    content = toy.config(alignment, batch_size=batch).model_dump(mode="json")
    content["model"] |= {"width": 256, "heads": 4}
    trainer = trainer_of(toy, validate(RunConfig, content, "wide"))
    for _ in range(2):
        trainer.train_step()
    taken = peak_of(trainer.train_step, CPU)
    weights = 4 * sum(each.numel() for each in trainer.objective.parameters())
    need = measured_need(trainer)
    trainer.feed.close()
    assert need.of(batch) == pytest.approx(4 * weights + taken, rel=0.3)


@pytest.mark.parametrize(("least", "words"), [(4, ", and even for 4; train"), (8, "take about")])
def test_a_measurement_that_gets_no_memory(
    toy: Toy, least: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one group of four rollouts: nothing fits. Of two: one was measured."""
    measured = memory._measured

    def failing(trainer: Trainer, samples: int) -> tuple[int, float]:
        if samples >= least:
            torch.empty(MORE_THAN_THERE_IS)
        return measured(trainer, samples)

    trainer = trainer_of(toy, toy.config())
    monkeypatch.setattr(memory, "_measured", failing)
    assert words in too_little_memory(trainer, "")
    trainer.feed.close()


def test_states_that_do_not_fit_are_not_called_damaged(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.train_to(toy.config(), tmp_path, 3)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", lambda *_, **__: torch.empty(MORE_THAN_THERE_IS))
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            toy.train_to(toy.config(), tmp_path, 5)
    monkeypatch.setattr(Trainer, "load_state_dict", lambda *_: torch.empty(MORE_THAN_THERE_IS))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        toy.train_to(toy.config(), tmp_path, 5)


def test_sizes_that_fit_are_whole_groups() -> None:
    need = Need(100, 10.0)
    assert fitting(need, 24, 1, 340) == 24
    assert fitting(need, 24, 1, 339) == 12
    assert fitting(need, 24, 8, 339) == 8
    assert fitting(need, 24, 8, 179) is None
