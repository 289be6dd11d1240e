"""The gate at the hidden tokens: gradients against two passes and closed forms; what an `adaptive` schedule makes of the agreement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from training_fixtures import LATENT, Toy, milestone_file

from vrpo.alignment.advantages import SHARES, group_advantages
from vrpo.alignment.agreement import LEAST_FACTOR, Agreement, Gate, Weighing, gradient_cosine
from vrpo.alignment.base import AlignmentBatch, AlignmentResult
from vrpo.config import RunConfig
from vrpo.config.messages import validate
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.training.objective import Objective
from vrpo.training.plan import plan_step
from vrpo.training.run import build_objective, train

B, N, W, BINS = 16, 3, 5, 4
SCORED = {"kind": "vrpo", "rewards": {"fidelity": {"score": 1.0}, "agreement": {"score": 1.0}}, "eta": 0.5}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"))


def objective_of(toy: Toy, process: str = "sit", **alignment: Any) -> tuple[Objective, TrainingData, RunConfig]:
    content = toy.config("repa", process).model_dump(mode="json")
    if alignment.get("kind") == "vrpo":
        alignment |= {"group_size": 4, "noise_bins": BINS}
    content["alignment"] |= alignment
    if alignment.get("kind") == "irepa":
        del content["alignment"]["projector_width"]
    config = validate(RunConfig, content, "toy")
    data = TrainingData(toy.latents, {"toy": toy.features})
    objective = build_objective(config, data, {}, torch.device("cpu")).train()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # gates of adaLN begin at zero, and nothing would come back from behind
        for parameter in objective.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return objective, data, config


def batch_of(objective: Objective, data: TrainingData, step: int = 0) -> dict[str, Any]:
    plan = plan_step(objective.process, objective.alignment, seed=0, step=step, count=data.count, batch_size=B, label_dropout=0.0)
    batch = data.gather(plan.indices)
    noise = torch.randn(B, *LATENT, generator=torch.Generator().manual_seed(step))
    tokens = {name: values.float() for name, values in batch.tokens.items()}
    return {"x0": batch.mean, "noise": noise, "t": plan.times, "labels": batch.labels, "tokens": tokens, "step": torch.full((), step)}


def two_passes(objective: Objective, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Gradients [B,N,W] at h of the denoising loss and of `-lambda mean cos`, without any gate, each from a backward pass of its own."""
    process, network, alignment = objective.process, objective.network, objective.alignment
    x_t = process.corrupt(inputs["x0"], inputs["noise"], inputs["t"])
    prediction, (hidden,) = network(x_t, process.network_time(inputs["t"]), inputs["labels"], hidden_after=alignment.hidden_after)
    denoising, _ = process.losses(prediction, inputs["x0"], inputs["noise"], x_t, inputs["t"])
    (behind,) = torch.autograd.grad(denoising.mean(), hidden, retain_graph=True)
    (aligned,) = torch.autograd.grad(-alignment.weight * alignment.cosine(hidden, inputs["tokens"]).mean(), hidden)
    return behind, aligned


@pytest.mark.parametrize("process", ["sit", "dit"])
def test_measuring_changes_no_gradient(toy: Toy, process: str) -> None:
    gradients = []
    for measured in (False, True):
        objective, data, _ = objective_of(toy, process, measure_agreement=measured)
        loss, _ = objective(**batch_of(objective, data))
        loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in objective.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("process", ["sit", "dit"])
@pytest.mark.parametrize(("kind", "scale"), [("repa", 1.0), ("repa", 0.25), ("irepa", 1.0)])
def test_one_backward_pass_measures_what_two_do(toy: Toy, process: str, kind: str, scale: float) -> None:
    objective, data, _ = objective_of(toy, process, kind=kind, measure_agreement=True)
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
            np.testing.assert_allclose(means[index], expected[here].mean().item(), rtol=1e-4, atol=1e-6)
        else:
            assert np.isnan(means[index])


@pytest.mark.parametrize("process", ["sit", "dit"])
def test_scored_agreement_weighs_the_gradient_at_h(toy: Toy, process: str) -> None:
    """dL/dh = dL_gen/dh + (beta + eta A_i) dL_align/dh with the agreement in A: closed form, from gradients of two passes."""
    objective, data, _ = objective_of(toy, process, **SCORED)
    alignment = objective.alignment
    for step in range(1, 6):  # let the statistics of both rewards see something
        loss, _ = objective(**batch_of(objective, data, step))
        loss.backward()
        objective.zero_grad()
        alignment.finish_step(lambda sums: sums, torch.tensor(True))
    inputs = batch_of(objective, data)
    behind, aligned = two_passes(objective, inputs)
    levels = objective.process.noise_level(inputs["t"])
    mean, inverse_std = alignment.statistics.moments(levels)
    caught: dict[str, Tensor] = {}

    def catching_gate() -> Gate:
        gate = Agreement.gate(alignment.agreement)
        call = gate.__call__
        caught["gate"] = gate

        def called(hidden: Tensor) -> tuple[Tensor, Tensor]:
            hidden.register_hook(lambda gradient: caught.update(gradient=gradient))
            return call(hidden)

        return type("Catching", (), {"__call__": staticmethod(called), "tell": staticmethod(gate.tell)})()

    alignment.gate = catching_gate
    loss, metrics = objective(**inputs)
    loss.backward()
    x_t = objective.process.corrupt(inputs["x0"], inputs["noise"], inputs["t"])
    prediction = objective.network(x_t, objective.process.network_time(inputs["t"]), inputs["labels"])[0]
    _, error = objective.process.losses(prediction, inputs["x0"], inputs["noise"], x_t, inputs["t"])
    rewards = torch.stack([-error.detach(), gradient_cosine(behind, aligned)])
    scored = ((rewards - mean[[0, 3]]) * inverse_std[[0, 3]]).sum(dim=0).float()
    weights = alignment.beta + alignment.eta * group_advantages(scored, 4, alignment.max_advantage)
    torch.testing.assert_close(caught["gradient"], behind + weights[:, None, None] * aligned, rtol=1e-3, atol=1e-7)
    assert (weights - 1).abs().max() > 0.1
    assert metrics["loss"].isfinite() and "advantage_abs" not in metrics  # of the whole reward only the gate knows it
    alignment.log.take()
    alignment.finish_step(lambda sums: sums, torch.tensor(True))
    logged = {name: np.array(values) for name, values in alignment.log.take().items()}
    for index in range(BINS):
        here = (levels * BINS).long().clamp(0, BINS - 1) == index
        expected = [weights[here].mean().item(), ((weights - alignment.beta) / alignment.eta)[here].abs().mean().item(), 0.0] if here.any() else [np.nan] * 3
        np.testing.assert_allclose([logged[name][index] for name in ("weight", "advantage_abs", "clipped")], expected, rtol=1e-3, atol=1e-5)
        assert not here.any() or sum(logged[name][index] for name in SHARES) == pytest.approx(1)


def test_weights_stop_where_the_clip_holds() -> None:
    weighing = Weighing(score=1.0, eta=0.5, beta=1.0, clip=0.2, group_size=4, max_advantage=3.0)
    reward = torch.tensor([2.0, 1.0, -1.0, -2.0])
    zero, one = torch.zeros(4), torch.ones(4)
    free, advantages, _ = weighing.weigh(zero, reward, zero, zero, one)
    torch.testing.assert_close(advantages, group_advantages(reward, 4))
    torch.testing.assert_close(free, 1 + 0.5 * group_advantages(reward, 4))
    weights, _, held = weighing.weigh(zero, reward, zero, zero, torch.tensor([1.3, 1.1, 0.9, 0.7]))
    assert held.tolist() == [True, False, False, True]
    torch.testing.assert_close(
        weights, torch.stack([one[0], 1 + 0.5 * 1.1 * group_advantages(reward, 4)[1], 1 + 0.5 * 0.9 * group_advantages(reward, 4)[2], one[3]])
    )


def test_the_cosine_of_tiny_and_of_zero_gradients() -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)
    torch.testing.assert_close(gradient_cosine(1e-25 * a, 1e-20 * b), expected, rtol=1e-5, atol=1e-6)
    assert gradient_cosine(a, torch.zeros_like(a)).isnan().all()


def feed(agreement: Agreement, values: list[float], steps: int) -> None:
    value = torch.tensor(values, dtype=torch.float64)
    for _ in range(steps):
        agreement.found.grad = 8.0 * torch.stack([torch.ones(BINS, dtype=torch.float64), value, value.square()])
        agreement.finish_step(lambda sums: sums, torch.tensor(True))


def test_an_adaptive_weight_follows_the_agreement_at_each_noise_level_and_ends() -> None:
    agreement, levels = Agreement(BINS, decay=0.9), (torch.arange(BINS) + 0.5) / BINS
    feed(agreement, [0.0, 0.1, 0.2, 0.4], 3)
    assert agreement.factor(levels).tolist() == [1] * BINS  # not settled
    feed(agreement, [0.0, 0.1, 0.2, 0.4], 30)
    assert agreement.factor(levels).tolist() == pytest.approx([LEAST_FACTOR, 0.25, 0.5, 1])
    feed(agreement, [0.0, 0.0, 0.1, 0.1], 100)
    assert agreement.factor(levels).tolist() == pytest.approx([LEAST_FACTOR, LEAST_FACTOR, 0.25, 0.25], abs=1e-4)
    feed(agreement, [-0.2] * BINS, 100)
    assert agreement.factor(levels).tolist() == pytest.approx([LEAST_FACTOR] * BINS)
    fresh = Agreement(BINS, decay=0.9)
    assert fresh.factor(levels).tolist() == [1] * BINS
    fresh.load_state_dict(agreement.state_dict())
    assert fresh.factor(levels).tolist() == pytest.approx([LEAST_FACTOR] * BINS)
    feed(agreement, [0.0, 0.0, 0.3, 0.4], 200)  # and it pays again
    assert agreement.factor(levels).tolist() == pytest.approx([LEAST_FACTOR, LEAST_FACTOR, 0.75, 1.0], abs=1e-3)
    unseen = Agreement(BINS, decay=0.9)
    for _ in range(30):
        unseen.found.grad = torch.tensor([[8.0, 0.0, 8.0, 8.0], [0.8, 0.0, 1.6, 1.6], [1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
        unseen.finish_step(lambda sums: sums, torch.tensor(True))
    assert unseen.factor(levels).tolist() == pytest.approx([0.5, 1, 1, 1])


def logged_agreement(objective: Objective, inputs: dict[str, Any]) -> np.ndarray:
    """By noise level, of one step."""
    loss, _ = objective(**inputs)
    loss.backward()
    objective.alignment.finish_step(lambda sums: sums, torch.tensor(True))
    return np.array(objective.alignment.log.take()["agreement"])


@pytest.mark.parametrize("process", ["sit", "dit"])
def test_a_noise_level_that_an_adaptive_weight_has_closed_is_still_measured(toy: Toy, process: str) -> None:
    """As at full weight, so that it opens again where alignment pays again; the cosine knows no scale."""
    objective, data, _ = objective_of(toy, process, weight_schedule={"kind": "adaptive"})
    inputs = batch_of(objective, data)
    expected = logged_agreement(objective, inputs)
    agreement = objective.alignment.agreement
    agreement.known.fill_(1.0)
    agreement.highest.fill_(0.5)
    agreement.running.copy_(torch.tensor([[1.0], [-0.1]], dtype=torch.float64).expand_as(agreement.running))
    assert objective.alignment.agreement.factor(objective.process.noise_level(inputs["t"])).tolist() == pytest.approx([LEAST_FACTOR] * B)
    objective.zero_grad()
    np.testing.assert_allclose(logged_agreement(objective, inputs), expected, rtol=1e-3, atol=1e-5)


def test_where_nothing_is_aligned_no_agreement_is_told(toy: Toy) -> None:
    objective, data, _ = objective_of(toy, measure_agreement=True, weight_schedule={"kind": "stop", "end": 1})
    assert np.isfinite(logged_agreement(objective, batch_of(objective, data, 0))).any()
    assert np.isnan(logged_agreement(objective, batch_of(objective, data, 1))).all()


def test_a_loss_that_knows_no_gate_is_measured_by_noise_level(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a loss of one's own is: what the gate has to know comes from the objective."""
    objective, data, _ = objective_of(toy, measure_agreement=True)
    inputs = batch_of(objective, data)
    expected = logged_agreement(objective, inputs)
    objective.zero_grad()

    def plain(batch: AlignmentBatch) -> AlignmentResult:
        return AlignmentResult(-objective.alignment.weight * objective.alignment.cosine(batch.hidden[0], batch.tokens).mean())

    monkeypatch.setattr(objective.alignment, "forward", plain)
    assert np.isfinite(expected).sum() > 1
    np.testing.assert_allclose(logged_agreement(objective, inputs), expected, rtol=1e-5)


def test_a_skipped_step_is_forgotten() -> None:
    agreement = Agreement(BINS)
    agreement.found.grad = torch.full((3, BINS), float("nan"), dtype=torch.float64)
    assert agreement.finish_step(lambda sums: sums, torch.tensor(False)).eq(0).all()
    assert agreement.running.eq(0).all()


def test_training_with_all_of_it_resumes_in_the_same_bytes(toy: Toy, tmp_path: Path) -> None:
    scored = {**SCORED, "group_size": 4, "noise_bins": BINS, "weight_schedule": {"kind": "adaptive"}}
    content = toy.config("repa").model_dump(mode="json")
    content["alignment"] |= scored
    config = validate(RunConfig, content, "toy")
    inputs = {"latents": toy.latents, "features": {"toy": toy.features}, "critics": {}, "device": "cpu", "log_every": 5}
    for name, milestones in (("whole", [12]), ("parts", [7, 12])):
        for milestone in milestones:
            train(config, **inputs, milestone=milestone, output=milestone_file(tmp_path / name, milestone))
    for file in ("step0000012.safetensors", "train.csv", "diagnostics.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    rows = np.genfromtxt(tmp_path / "whole" / "diagnostics.csv", delimiter=",", names=True)
    assert set(rows["step"]) == {5, 10}
    assert np.isfinite(rows["agreement"]).all() and np.abs(rows["agreement"]).max() <= 1


def test_a_network_without_a_gate_is_refused_where_the_loss_needs_one(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    for needed in ({"weight_schedule": {"kind": "adaptive"}}, SCORED):
        objective, _, _ = objective_of(toy, **needed)
        with pytest.raises(UserError, match=r"Linear: has no method `traced`, which the alignment (REPA|VRPO) calls"):
            Objective(torch.nn.Linear(2, 2), objective.alignment, objective.process)
    objective, _, _ = objective_of(toy, measure_agreement=True)
    assert not Objective(torch.nn.Linear(2, 2), objective.alignment, objective.process).gated
    assert "the agreement of gradients is not measured" in caplog.text


def test_options_that_exclude_each_other_are_refused(toy: Toy) -> None:
    for changes, message in (
        ({"rewards": {"agreement": {"score": 1.0}, "semantic": {"pathwise": 0.1}}}, "set one of the two to 0"),
        ({"eta_schedule": {"kind": "adaptive"}}, "`adaptive` is a schedule of `weight` alone"),
        ({"eta_schedule": {"kind": "linear", "end": 5}}, "leave `eta_schedule` constant"),
    ):
        with pytest.raises(UserError, match=message):
            objective_of(toy, **{**SCORED, **changes})
