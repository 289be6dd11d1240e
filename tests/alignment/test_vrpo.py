"""VRPO against closed forms: the properties of docs/method.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vrpo.alignment.advantages import SHARES, group_advantages
from vrpo.alignment.diagnostics import noise_level_bin
from vrpo.alignment.rewards import REWARDS

from tests.fixtures.alignment import (
    B,
    gradients,
    make_batch,
    make_repa,
    make_vrpo,
    toy_critic,
    warm,
)


def test_eta_zero_beta_one_is_repa() -> None:
    """Loss and gradients, to 1e-6, whatever kappa; with warm statistics too."""
    for kappa in (1.0, 7.0):
        vrpo, repa = make_vrpo(eta=0.0, beta=1.0, kappa=kappa), make_repa()
        warm(vrpo)
        loss, grads = gradients(vrpo, make_batch())
        expected_loss, expected = gradients(repa, make_batch())
        torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-6)
        for got, want in zip(grads, expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
        if kappa == 1:  # nothing is rounded otherwise
            assert torch.equal(loss, expected_loss)
            assert all(map(torch.equal, grads, expected))


@pytest.mark.parametrize("kappa", [1.0, 5.0])
def test_on_policy_gradient_is_the_closed_form(kappa: float) -> None:
    """lambda * mean_i (beta + eta A_i) grad(-cos_i)."""
    rewards = {"fidelity": {"score": 1.0}, "semantic": {"score": 0.5}, "perceptual": {"score": 0.7}}
    vrpo = make_vrpo(eta=0.4, beta=0.9, kappa=kappa, weight=0.5, rewards=rewards)
    warm(vrpo)
    batch = make_batch()
    cosine = vrpo.cosine(batch.hidden[0], batch.tokens)
    mean, inverse_std = vrpo.statistics.moments(batch.noise_level)
    raw = torch.stack(
        [
            -batch.error,
            F.cosine_similarity(toy_critic(batch.x0_hat()), toy_critic(batch.x0), dim=-1).mean(1),
            cosine,
        ]
    ).detach()
    total = (torch.tensor([1.0, 0.7, 0.5])[:, None] * ((raw - mean) * inverse_std)).sum(0).float()
    advantages = group_advantages(total, 4)
    assert advantages.abs().mean() > 0.3  # the test would say little otherwise
    expected_loss = 0.5 * ((0.9 + 0.4 * advantages) * -cosine).mean()
    wanted = [*vrpo.parameters(), batch.hidden[0]]
    expected = torch.autograd.grad(expected_loss, wanted)
    for got, want in zip(gradients(vrpo, batch)[1], expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_pathwise_gradient_is_weight_over_running_std() -> None:
    vrpo = make_vrpo(
        eta=0.0, beta=0.0, rewards={"fidelity": {"pathwise": 0.3}, "perceptual": {"pathwise": 0.05}}
    )
    warm(vrpo)
    batch = make_batch()
    x0_hat = batch.x0_hat()
    error_grad, x0_grad = torch.autograd.grad(vrpo(batch).loss, [batch.error, x0_hat])
    _, inverse_std = vrpo.statistics.moments(batch.noise_level)
    torch.testing.assert_close(error_grad, (0.3 * inverse_std[0] / B).float(), rtol=1e-5, atol=1e-7)
    reward = F.cosine_similarity(toy_critic(x0_hat), toy_critic(batch.x0), dim=-1).mean(1)
    (expected,) = torch.autograd.grad(-(0.05 * inverse_std[1].float() * reward).mean(), x0_hat)
    torch.testing.assert_close(x0_grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.4])
def test_replaced_form_aligns_with_weight_over_running_std(eta: float) -> None:
    """The gradient is mean_i (w / sigma(u_i) + lambda eta A_i) grad(-cos_i).

    The other pathwise rewards do not reach the hidden tokens of this batch.
    """
    rewards = {name: {"score": 1.0, "pathwise": 0.05} for name in ("fidelity", "perceptual")}
    rewards["semantic"] = {"score": 1.0, "pathwise": 0.3}
    vrpo = make_vrpo(eta=eta, beta=0.0, weight=0.5, rewards=rewards)
    warm(vrpo)
    batch = make_batch()
    cosine = vrpo.cosine(batch.hidden[0], batch.tokens)
    perceptual = F.cosine_similarity(toy_critic(batch.x0_hat()), toy_critic(batch.x0), dim=-1)
    raw = torch.stack([-batch.error, perceptual.mean(1), cosine]).detach()
    mean, inverse_std = vrpo.statistics.moments(batch.noise_level)
    assert len(inverse_std[2].unique()) > 5  # it adapts
    advantages = group_advantages(((raw - mean) * inverse_std).sum(0).float(), 4)
    weight = 0.3 * inverse_std[2].float() + 0.5 * eta * advantages
    wanted = [*vrpo.parameters(), batch.hidden[0]]
    expected = torch.autograd.grad(-(weight * cosine).mean(), wanted)
    for got, want in zip(gradients(vrpo, batch)[1], expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_replaced_form_does_not_align_before_its_statistics_are_known() -> None:
    """There is no static term; lambda multiplies nothing."""
    rewards = {"semantic": {"pathwise": 0.3}}
    vrpo = make_vrpo(eta=0.0, beta=0.0, weight=3.0, rewards=rewards, least_rollouts=5)
    loss, found = gradients(vrpo, make_batch())
    assert loss == 0 and not any(gradient.any() for gradient in found)
    warm(vrpo, steps=8)
    loss, found = gradients(vrpo, make_batch())
    assert loss != 0 and all(gradient.any() for gradient in found)
    batch = make_batch()
    cosine = vrpo.cosine(batch.hidden[0], batch.tokens)
    mean, inverse_std = vrpo.statistics.moments(batch.noise_level)
    expected = -(0.3 * (cosine - mean[2]) * inverse_std[2]).mean()
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-5, atol=1e-6)


def test_raw_rewards_have_their_own_scale() -> None:
    """Without standardisation: advantages of `sum_k score_k r_k`, pathwise weights as given."""
    rewards = {"fidelity": {"score": 1.0, "pathwise": 0.3}, "semantic": {"score": 0.5}}
    vrpo = make_vrpo(eta=0.4, beta=0.9, weight=0.5, rewards=rewards, standardise=False)
    warm(vrpo)
    batch = make_batch()
    cosine = vrpo.cosine(batch.hidden[0], batch.tokens)
    advantages = group_advantages((-batch.error + 0.5 * cosine).detach(), 4)
    policy = 0.5 * ((0.9 + 0.4 * advantages) * -cosine).mean()
    wanted = [batch.error, *vrpo.parameters()]
    expected = torch.autograd.grad(policy + 0.3 * batch.error.mean(), wanted)
    got = torch.autograd.grad(vrpo(batch).loss, wanted)
    for found, want in zip(got, expected, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)


def test_pathwise_weights_are_logged_by_noise_level_and_unused_rewards_are_not() -> None:
    """The factor of the reward's gradient, at the noise level of the rollout."""
    vrpo = make_vrpo(critics=False, eta=0.0, rewards={"fidelity": {"pathwise": 0.3}})
    warm(vrpo)
    vrpo.log.take()
    batch = make_batch()
    (error_grad,) = torch.autograd.grad(vrpo(batch).loss, [batch.error])
    vrpo.finish_step(lambda sums: sums, torch.tensor(True))
    logged = {name: np.array(values) for name, values in vrpo.log.take().items()}
    where = noise_level_bin(batch.noise_level, len(logged["fidelity"]))
    for index in where.unique().tolist():
        assert logged["pathwise_fidelity"][index] == pytest.approx(
            B * error_grad[where == index].mean().item(), rel=1e-5
        )
    assert all(
        np.isnan(logged[name]).all()
        for name in ("perceptual", "pathwise_perceptual", "pathwise_semantic", *SHARES)
    )
    assert "reward_perceptual" not in vrpo(batch).metrics


def test_score_only_rewards_carry_no_gradient() -> None:
    vrpo = make_vrpo(eta=0.5, rewards={name: {"score": 1.0} for name in REWARDS})
    warm(vrpo)
    batch = make_batch()
    grads = torch.autograd.grad(vrpo(batch).loss, [batch.error, batch.x0_hat()], allow_unused=True)
    assert grads == (None, None)


def test_constant_rewards_are_told_once_they_were_seen() -> None:
    vrpo = make_vrpo(rewards={"fidelity": {"score": 1.0}, "semantic": {"score": 1.0}}, eta=0.5)
    assert vrpo.warnings() == []
    for step in range(3):
        batch = make_batch(step)
        batch.error = torch.full_like(batch.error, 0.25)
        assert vrpo(batch).loss.isfinite()
        vrpo.finish_step(lambda sums: sums, torch.tensor(True))
    assert [text.split()[0] for text in vrpo.warnings()] == [
        "rewards.fidelity"
    ]  # the perceptual one is constant, too, but has no weight


def test_a_score_that_nothing_is_made_of_is_told() -> None:
    vrpo = make_vrpo(
        rewards={"fidelity": {"score": 1.0, "pathwise": 0.05}, "semantic": {"score": 1.0}}, eta=0.0
    )
    assert [text.split(":")[0] for text in vrpo.warnings()] == [
        "rewards.fidelity.score changes nothing",
        "rewards.semantic.score changes nothing",
    ]
    assert make_vrpo(rewards={"fidelity": {"score": 1.0}}, eta=0.1).warnings() == []


def test_old_policy_enters_the_ratio() -> None:
    vrpo = make_vrpo(eta=1.0, beta=0.0, old_policy="ema", kappa=10.0, clip=0.2)
    warm(vrpo)
    batch = make_batch()
    batch.old_cosine = (
        vrpo.cosine(batch.hidden[0], batch.tokens).detach() - 0.1
    )  # ratio e^1, beyond the clip
    result = vrpo(batch)
    assert 0.2 < result.metrics["clip_fraction"] < 0.8  # held where the advantage is positive
    batch.old_cosine = batch.old_cosine + 0.1
    assert vrpo(batch).metrics["clip_fraction"] == 0


def test_bf16_equals_fp32_up_to_rounding() -> None:
    """Gradients too: on policy the policy term's value is 0, so the loss says nothing of it."""
    found = []
    for half in (False, True):
        vrpo = make_vrpo(
            eta=0.5,
            rewards={"fidelity": {"score": 1.0}, "perceptual": {"score": 1.0, "pathwise": 0.05}},
        )
        warm(vrpo)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(gradients(vrpo, make_batch()))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0.02, atol=0.01)
    for plain, rounded in zip(found[0][1], found[1][1], strict=True):
        assert (rounded - plain).norm() < 0.02 * plain.norm()
