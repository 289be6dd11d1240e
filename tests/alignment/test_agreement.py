"""The agreement of gradients, measured in one backward pass, against two passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vrpo.alignment.agreement import Agreement, gradient_cosine
from vrpo.alignment.base import AlignmentBatch, AlignmentResult
from vrpo.config import RunConfig
from vrpo.config.messages import validate
from vrpo.config.training import TrainingOptions
from vrpo.data.batches import TrainingData
from vrpo.training.building import build_objective
from vrpo.training.objective import Objective
from vrpo.training.plan import plan_step

from tests.fixtures.training import LATENT, Toy

B, BINS = 16, 4


def objective_of(
    toy: Toy, process: str = "sit", **alignment: Any
) -> tuple[Objective, TrainingData]:
    content = toy.config("repa", process).model_dump(mode="json")
    content["alignment"] |= alignment
    if alignment.get("kind") == "irepa":
        del content["alignment"]["projector_width"]
    data = TrainingData(toy.latents, {"toy": toy.features})
    config = validate(RunConfig, content, "toy")
    objective = build_objective(config, data, {}, torch.device("cpu")).train()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # gates of adaLN begin at zero, and nothing would come back from behind
        for parameter in objective.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return objective, data


def batch_of(objective: Objective, data: TrainingData, step: int = 0) -> dict[str, Any]:
    training = TrainingOptions(batch_size=B, label_dropout=0.0)
    options = objective.alignment.options
    plan = plan_step(objective.process, options, training, seed=0, step=step, count=data.count)
    batch = data.gather(plan.indices)
    noise = torch.randn(B, *LATENT, generator=torch.Generator().manual_seed(step))
    tokens = {name: values.float() for name, values in batch.tokens.items()}
    return {
        "x0": batch.mean,
        "noise": noise,
        "t": plan.times,
        "labels": batch.labels,
        "tokens": tokens,
        "step": torch.full((), step),
    }


def two_passes(objective: Objective, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Gradients [B,N,W] at h, of the denoising loss and of `-lambda mean cos`.

    A backward pass gives each.
    """
    process, network, alignment = objective.process, objective.network, objective.alignment
    x_t = process.corrupt(inputs["x0"], inputs["noise"], inputs["t"])
    prediction, (hidden,) = network(
        x_t,
        process.network_time(inputs["t"]),
        inputs["labels"],
        hidden_after=alignment.hidden_after,
    )
    denoising, _ = process.losses(prediction, inputs["x0"], inputs["noise"], x_t, inputs["t"])
    (behind,) = torch.autograd.grad(denoising.mean(), hidden, retain_graph=True)
    (aligned,) = torch.autograd.grad(
        -alignment.options.weight * alignment.cosine(hidden, inputs["tokens"]).mean(), hidden
    )
    return behind, aligned


@pytest.mark.parametrize("process", ["sit", "dit"])
def test_measuring_changes_no_gradient(toy: Toy, process: str) -> None:
    gradients = []
    for measured in (False, True):
        objective, data = objective_of(toy, process, measure_agreement=measured)
        loss, _ = objective(**batch_of(objective, data))
        loss.backward()
        gradients.append(
            {name: parameter.grad.clone() for name, parameter in objective.named_parameters()}
        )
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name],
            gradient,
            rtol=1e-5,
            atol=1e-8,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("process", ["sit", "dit"])
@pytest.mark.parametrize(("kind", "scale"), [("repa", 1.0), ("repa", 0.25), ("irepa", 1.0)])
def test_one_backward_pass_measures_what_two_do(
    toy: Toy, process: str, kind: str, scale: float
) -> None:
    objective, data = objective_of(toy, process, kind=kind, measure_agreement=True)
    inputs = batch_of(objective, data)
    expected = gradient_cosine(*two_passes(objective, inputs))
    assert expected.abs().min() > 0
    loss, _ = objective(**inputs)
    (scale * loss).backward()  # as under gradient accumulation
    objective.alignment.finish_step(lambda sums: sums, torch.tensor(True))
    levels = objective.process.noise_level(inputs["t"])
    bins = objective.alignment.log.bins
    means = np.array(objective.alignment.log.take()["agreement"])
    for index in range(bins):
        here = (levels * bins).long().clamp(0, bins - 1) == index
        if here.any():
            np.testing.assert_allclose(
                means[index], expected[here].mean().item(), rtol=1e-4, atol=1e-6
            )
        else:
            assert np.isnan(means[index])


def test_the_cosine_of_tiny_and_of_zero_gradients() -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)
    torch.testing.assert_close(
        gradient_cosine(1e-25 * a, 1e-20 * b), expected, rtol=1e-5, atol=1e-6
    )
    assert gradient_cosine(a, torch.zeros_like(a)).isnan().all()


def logged_agreement(objective: Objective, inputs: dict[str, Any]) -> np.ndarray:
    """By noise level, of one step."""
    loss, _ = objective(**inputs)
    loss.backward()
    objective.alignment.finish_step(lambda sums: sums, torch.tensor(True))
    return np.array(objective.alignment.log.take()["agreement"])


def test_where_nothing_is_aligned_no_agreement_is_logged(toy: Toy) -> None:
    objective, data = objective_of(
        toy, measure_agreement=True, weight_schedule={"kind": "stop", "end": 1}
    )
    assert np.isfinite(logged_agreement(objective, batch_of(objective, data, 0))).any()
    assert np.isnan(logged_agreement(objective, batch_of(objective, data, 1))).all()


def test_a_custom_loss_is_measured_by_noise_level(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, data = objective_of(toy, measure_agreement=True)
    inputs = batch_of(objective, data)
    expected = logged_agreement(objective, inputs)
    objective.zero_grad()

    def plain(batch: AlignmentBatch) -> AlignmentResult:
        return AlignmentResult(
            -objective.alignment.options.weight
            * objective.alignment.cosine(batch.hidden[0], batch.tokens).mean()
        )

    monkeypatch.setattr(objective.alignment, "forward", plain)
    assert np.isfinite(expected).sum() > 1
    np.testing.assert_allclose(logged_agreement(objective, inputs), expected, rtol=1e-5)


def test_a_skipped_step_is_forgotten() -> None:
    agreement = Agreement(BINS)
    agreement.found.grad = torch.full((2, BINS), float("nan"), dtype=torch.float64)
    assert agreement.finish_step(lambda sums: sums, torch.tensor(False)).eq(0).all()
    assert agreement.found.grad is None


def test_a_measured_training_resumes_in_the_same_bytes(toy: Toy, tmp_path: Path) -> None:
    content = toy.config("vrpo").model_dump(mode="json")
    content["alignment"] |= {"measure_agreement": True}
    config = validate(RunConfig, content, "toy")
    for name, milestones in (("whole", [12]), ("parts", [7, 12])):
        for milestone in milestones:
            toy.train_to(config, tmp_path / name, milestone)
    for file in ("step0000012.safetensors", "train.csv", "diagnostics.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    rows = np.genfromtxt(tmp_path / "whole" / "diagnostics.csv", delimiter=",", names=True)
    assert set(rows["step"]) == {5, 10}
    assert np.nanmax(np.abs(rows["agreement"])) <= 1


def test_a_network_without_a_gate_is_not_measured(
    toy: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    objective, _ = objective_of(toy, measure_agreement=True)
    parts = (torch.nn.Linear(2, 2), objective.alignment, objective.process)
    assert not Objective(*parts, objective.options).measured
    assert "the agreement is not measured" in caplog.text
