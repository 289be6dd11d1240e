"""Samples that a rank reads for a step: the planned ones.

Whether read ahead or not, from files or from memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.models.checkpoints import read_network
from vrpo.training.building import build_objective
from vrpo.training.feed import Feed
from vrpo.training.plan import StepPlan
from vrpo.training.run import train

from tests.fixtures.training import Toy, milestone_file

NULL = 3


def plans(step: int) -> list[StepPlan]:
    """Two micro-batches of three samples, all different from step to step."""
    indices = np.arange(6) + 6 * step
    dropped = torch.tensor([True, False, False, False, True, False])
    whole = StepPlan(indices, torch.arange(6) / 7 + step, dropped, torch.arange(6))
    return [whole.part(0, 2), whole.part(1, 2)]


def feed(toy: Toy, latents: str, encoders: tuple[str, ...] = ("toy",)) -> Feed:
    data = TrainingData(toy.latents, {"toy": toy.features})
    return Feed(
        data,
        plans,
        device=torch.device("cpu"),
        encoders=encoders,
        attention=False,
        class_token=False,
        null_label=NULL,
        latents=latents,
    )


@pytest.mark.parametrize("latents", ["mapped", "resident", "auto"])
def test_steps_in_any_order_are_what_was_planned(toy: Toy, latents: str) -> None:
    reader, data = feed(toy, latents), TrainingData(toy.latents, {"toy": toy.features})
    for step in (0, 1, 2, 5, 0):  # as planned, a jump ahead and one back
        for part, batch in zip(plans(step), reader.take(step), strict=True):
            expected = data.gather(part.indices)
            assert torch.equal(batch.mean, expected.mean) and torch.equal(batch.std, expected.std)
            assert torch.equal(batch.tokens["toy"], expected.tokens["toy"])
            assert torch.equal(batch.times, part.times) and torch.equal(batch.draw, part.draw)
            assert torch.equal(batch.labels[part.dropped], torch.full((1,), NULL))
            assert torch.equal(batch.labels[~part.dropped], expected.labels[~part.dropped])
    reader.close()


def test_only_what_the_alignment_uses_is_read(toy: Toy) -> None:
    reader = feed(toy, "mapped", encoders=())
    assert reader.take(0)[0].tokens == {}
    assert set(reader.data.read(np.arange(2), **reader.wanted)) == {"labels", "mean", "std"}
    reader.close()
    reader = feed(toy, "resident")
    assert set(reader.data.read(np.arange(2), **reader.wanted)) == {"labels", "tokens:toy"}
    reader.close()


def test_the_next_step_is_read_while_this_one_computes(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, wanted = [], TrainingData.read
    monkeypatch.setattr(
        TrainingData,
        "read",
        lambda self, indices, *rest, **more: (
            read.append(int(indices[0]) // 6),
            wanted(self, indices, *rest, **more),
        )[1],
    )
    reader = feed(toy, "mapped")
    reader.take(0)
    reader._due[1].result()
    assert read == [0, 0, 1, 1]
    reader.take(1)
    assert read.count(1) == 2, "read once"
    reader.close()


def test_what_goes_wrong_in_reading_reaches_the_training(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*arguments: object, **more: object) -> None:
        raise UserError("features.h5: was truncated while it was read; rebuild it")

    reader = feed(toy, "mapped")
    monkeypatch.setattr(TrainingData, "read", cut)
    with pytest.raises(UserError, match="truncated while it was read"):
        reader.take(0)
    reader.close()


@pytest.mark.parametrize("change", [{"latents": "resident"}, {"activation_checkpointing": True}])
def test_memory_options_change_no_bit_of_the_result(
    toy: Toy, tmp_path: Path, change: dict[str, object]
) -> None:
    torch.set_num_threads(1)
    weights = []
    for name, training in (("plain", {}), ("changed", change)):
        milestone = toy.train_to(toy.config("vrpo", **training), tmp_path / name, 10)
        weights.append(read_network(milestone)[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_checkpointing_computes_the_blocks_again(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vrpo.models.transformer import Block

    calls, forward = [], Block.forward
    monkeypatch.setattr(
        Block, "forward", lambda self, *arguments: (calls.append(1), forward(self, *arguments))[1]
    )
    config = toy.config("none", activation_checkpointing=True)
    train(
        config, **toy.inputs(config), milestone=1, output=milestone_file(tmp_path, 1), device="cpu"
    )
    assert len(calls) == 2 * config.model.depth


def test_checkpointing_stays_within_one_graph(toy: Toy) -> None:
    """`fullgraph`: a break would be an error; loss and gradients are those of the plain step."""
    torch._dynamo.reset()
    config = toy.config("repa")
    data = TrainingData(toy.latents, {"toy": toy.features})
    batch = data.gather(np.arange(8))
    results = []
    for checkpointing in (False, True):
        objective = build_objective(config, data, {}, torch.device("cpu")).train()
        objective.network.activation_checkpointing = checkpointing
        forward = (
            torch.compile(objective, backend="aot_eager", fullgraph=True, dynamic=False)
            if checkpointing
            else objective
        )
        with torch.no_grad():
            objective.network.final_layer.linear.weight.add_(
                0.1
            )  # zero at first: no gradient would come through
        loss, _ = forward(
            batch.mean,
            torch.ones_like(batch.mean),
            torch.arange(8) / 8,
            batch.labels,
            batch.tokens,
            None,
            {},
            torch.zeros((), dtype=torch.int64),
        )
        loss.backward()
        results.append(
            (
                loss.detach(),
                [
                    parameter.grad
                    for parameter in objective.parameters()
                    if parameter.grad is not None
                ],
            )
        )
    torch.testing.assert_close(results[0], results[1])
