"""VRPO and REPA against closed forms: the properties of docs/method.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vrpo.alignment.advantages import SHARES, advantage_shares, clipped_surrogate, group_advantages
from vrpo.alignment.base import Alignment, AlignmentBatch, AlignmentContext, Critic
from vrpo.alignment.diagnostics import noise_level_bin
from vrpo.alignment.registry import build_alignment
from vrpo.alignment.rewards import REWARDS, NoiseLevelStatistics
from vrpo.alignment.vrpo import VRPO
from vrpo.config.alignments import NoAlignment, REPAOptions, VRPOOptions

B, N, W, D = 24, 5, 12, 7


def context(*encoders: str, **critics: Critic) -> AlignmentContext:
    return AlignmentContext((4, 6, 6), W, dict.fromkeys(encoders, (N, D)), critics)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(
    seed: int = 0, dtype: torch.dtype = torch.float32, encoders: tuple[str, ...] = ("a",)
) -> AlignmentBatch:
    g = generator(seed)
    x0 = torch.randn(B, 4, 6, 6, generator=g)
    x0_hat = (x0 + 0.3 * torch.randn(x0.shape, generator=g)).requires_grad_()
    error = torch.rand(B, generator=g).requires_grad_()
    return AlignmentBatch(
        hidden=[torch.randn(B, N, W, generator=g, dtype=torch.float32).to(dtype).requires_grad_()],
        tokens={name: torch.randn(B, N, D, generator=g) for name in encoders},
        noise_level=torch.rand(B, generator=g).sort().values,
        error=error,
        x0=x0,
        x0_hat=lambda: x0_hat,
    )


def toy_critic(latents: torch.Tensor) -> torch.Tensor:
    return F.normalize(
        latents.flatten(2)[:, :, : N * D // 4 * 4]
        .reshape(len(latents), -1)[:, : N * D]
        .reshape(-1, N, D),
        dim=-1,
    )


def make_vrpo(*, critics: bool = True, **changes: object) -> VRPO:
    options = {
        "kind": "vrpo",
        "encoders": ["a"],
        "depth": 1,
        "projector_width": 16,
        "eta": 0.1,
        "group_size": 4,
        "rewards": {"semantic": {"score": 1.0}},
    }
    torch.manual_seed(0)
    offered = context("a", **({"a": toy_critic} if critics else {}))
    built = build_alignment(VRPOOptions(**{**options, **changes}), offered)
    assert isinstance(built, VRPO)
    return built


def make_repa(weight: float = 0.5) -> Alignment:
    torch.manual_seed(0)
    options = REPAOptions(kind="repa", encoders=["a"], depth=1, weight=weight, projector_width=16)
    return build_alignment(options, context("a"))


def warm(alignment: Alignment, steps: int = 5) -> None:
    """Let the running statistics see some steps."""
    for step in range(steps):
        alignment(make_batch(100 + step))
        alignment.finish_step(lambda sums: sums, torch.tensor(True))


def gradients(
    alignment: Alignment, batch: AlignmentBatch
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    result = alignment(batch)
    wanted = [*alignment.parameters(), batch.hidden[0]]
    return result.loss.detach(), list(torch.autograd.grad(result.loss, wanted))


def test_none_is_zero_and_has_nothing_to_train() -> None:
    alignment = build_alignment(NoAlignment(kind="none"), context())
    assert alignment(make_batch()).loss.item() == 0
    assert list(alignment.parameters()) == []


def test_repa_equals_the_published_loop() -> None:
    """Per-sample loop with a mean over tokens, as in REPA's loss.py."""
    repa, batch = make_repa(weight=0.5), make_batch()
    projected = repa.projectors[0](batch.hidden[0])
    expected = (
        sum(
            -(F.normalize(z, dim=-1) * F.normalize(y, dim=-1)).sum(-1).mean()
            for z, y in zip(projected, batch.tokens["a"], strict=True)
        )
        / B
    )
    torch.testing.assert_close(repa(batch).loss, 0.5 * expected, rtol=1e-6, atol=1e-6)


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
    """`beta: 0` and a pathwise semantic reward: mean_i (w / sigma(u_i) + lambda eta A_i) grad(-cos_i).

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


def test_pathwise_weights_are_logged_by_noise_level_and_unused_rewards_are_not() -> None:
    """What the gradient of the reward is multiplied by, where a rollout fell."""
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


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3, 4, 8]))
def test_advantages_have_mean_zero_per_group(seed: int, group_size: int) -> None:
    rewards = torch.randn(24, generator=generator(seed)) * 10.0 ** (seed % 7 - 3)
    advantages = group_advantages(rewards, group_size, max_advantage=float("inf"))
    torch.testing.assert_close(
        advantages.view(-1, group_size).mean(1), torch.zeros(24 // group_size), rtol=0, atol=1e-5
    )
    assert group_advantages(rewards, group_size, max_advantage=0.5).abs().max() <= 0.5


def test_shares_are_the_distribution_of_the_advantage() -> None:
    shares = advantage_shares(torch.tensor([-3.0, -2.5, -0.1, 0.1, 1.5, 3.0]))
    assert shares.sum(dim=0).tolist() == [1.0] * 6
    assert shares.sum(dim=1).tolist() == [2.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    for eta, logged in (
        (0.1, 1.0),
        (0.0, 0.0),
    ):  # without a policy term there is nothing to distribute
        vrpo = make_vrpo(eta=eta)
        warm(vrpo)
        log = vrpo.log.take()
        assert np.nansum([log[name][-1] for name in SHARES]) == pytest.approx(logged)


def test_equal_rewards_have_no_advantage() -> None:
    assert torch.equal(group_advantages(torch.full((8,), 3.0), 4), torch.zeros(8))


@settings(max_examples=25, deadline=None)
@given(st.floats(-100, 100), st.floats(0.01, 100), st.integers(0, 1000))
def test_standardised_rewards_ignore_offset_and_scale(
    offset: float, scale: float, seed: int
) -> None:
    """Adding a constant to a raw reward, or scaling it, from the start of training on, changes no advantage."""
    plain, changed = NoiseLevelStatistics(1, bins=4), NoiseLevelStatistics(1, bins=4)
    g = generator(seed)
    for _ in range(10):
        noise_level = torch.rand(32, generator=g)
        rewards = torch.randn(1, 32, generator=g, dtype=torch.float64) + noise_level
        other = offset + scale * rewards
        z = [
            (r - s.moments(noise_level)[0]) * s.moments(noise_level)[1]
            for s, r in ((plain, rewards), (changed, other))
        ]
        torch.testing.assert_close(z[0], z[1], rtol=1e-4, atol=1e-4)
        for statistics, values in ((plain, rewards), (changed, other)):
            statistics.observe(values, noise_level)
            statistics.finish_step(lambda sums: sums, torch.tensor(True))


def test_running_statistics_are_the_weighted_mean_and_variance() -> None:
    statistics = NoiseLevelStatistics(2, bins=3, decay=0.9)
    g = generator(1)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for _ in range(6):
        noise_level, rewards = torch.rand(16, generator=g), torch.randn(2, 16, generator=g)
        statistics.observe(rewards[:, :7], noise_level[:7])  # two micro-batches are one step
        statistics.observe(rewards[:, 7:], noise_level[7:])
        statistics.finish_step(lambda sums: sums, torch.tensor(True))
        seen.append((noise_level, rewards.double()))
    level = torch.tensor([0.5])
    weights = torch.cat(
        [0.9 ** (5 - age) * ((n * 3).long() == 1) for age, (n, _) in enumerate(seen)]
    ).double()
    values = torch.cat([r for _, r in seen], dim=1)
    mean = (weights * values).sum(1) / weights.sum()
    std = ((weights * values.square()).sum(1) / weights.sum() - mean.square()).sqrt()
    got_mean, got_inverse = statistics.moments(level)
    torch.testing.assert_close(got_mean[:, 0], mean)
    torch.testing.assert_close(got_inverse[:, 0], 1 / std)


def test_constant_or_unseen_rewards_count_as_expected() -> None:
    statistics = NoiseLevelStatistics(1, bins=2)
    level = torch.full((8,), 0.1)
    assert torch.equal(statistics.moments(level)[1], torch.zeros(1, 8, dtype=torch.float64))
    for _ in range(30):
        statistics.observe(torch.full((1, 8), 0.1), level)
        statistics.finish_step(lambda sums: sums, torch.tensor(True))
    assert torch.equal(statistics.moments(level)[1], torch.zeros(1, 8, dtype=torch.float64))


def test_a_noise_level_counts_once_it_has_seen_enough() -> None:
    """Two rollouts that differ by chance have any standard deviation; `least` waits for more, counted as the sums decay."""
    levels = torch.tensor([0.1] * 6 + [0.6] * 2)
    patient, hasty = (
        NoiseLevelStatistics(1, bins=2, decay=0.5, least=8),
        NoiseLevelStatistics(1, bins=2, decay=0.5),
    )
    g = generator(3)
    for seen in (6, 6 + 3, 6 + 3 + 1.5):  # in the first bin; the second stays below 4
        rewards = torch.randn(1, 8, generator=g)
        for statistics in (patient, hasty):
            statistics.observe(rewards, levels)
            statistics.finish_step(lambda sums: sums, torch.tensor(True))
        known = patient.moments(levels)[1]
        assert (hasty.moments(levels)[1] > 0).all()
        assert (known[0, :6] > 0).all() == (seen >= 8)
        assert known[0, 6:].eq(0).all()
        assert patient.constant() == []  # it varies, though nothing is made of it yet
    assert torch.equal(known[0, :6], hasty.moments(levels)[1][0, :6])


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


def test_a_skipped_step_leaves_the_statistics_alone() -> None:
    statistics = NoiseLevelStatistics(1)
    statistics.observe(torch.full((1, 4), float("nan")), torch.rand(4))
    statistics.finish_step(lambda sums: sums, torch.tensor(False))
    assert torch.equal(statistics.sums, torch.zeros_like(statistics.sums))
    assert torch.equal(statistics.pending, torch.zeros_like(statistics.pending))


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [-0.5, -0.1, 0.0, 0.1, 0.5])
def test_the_clip_stops_the_gradient_only_where_it_must(log_ratio: float, advantage: float) -> None:
    """Outside [1-eps, 1+eps] and only where moving on would raise the surrogate."""
    log_prob = torch.tensor([log_ratio], requires_grad=True)
    surrogate, clipped = clipped_surrogate(
        log_prob, torch.zeros(1), torch.tensor([advantage]), clip=0.2
    )
    (grad,) = torch.autograd.grad(surrogate.sum(), log_prob)
    ratio = torch.tensor(log_ratio).exp().item()
    held = (ratio > 1.2 and advantage > 0) or (ratio < 0.8 and advantage < 0)
    assert clipped.item() == held
    assert grad.item() == pytest.approx(0.0 if held else ratio * advantage, rel=1e-6)


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


def test_cosines_are_finite_in_half_precision() -> None:
    """Norms of half-precision tokens overflow; ours are taken in fp32."""
    repa, batch = make_repa(), make_batch(dtype=torch.bfloat16)
    batch.hidden[0].data.mul_(1e4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = repa(batch).loss
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


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


def test_several_encoders_are_averaged() -> None:
    torch.manual_seed(0)
    options = REPAOptions(kind="repa", encoders=["a", "b"], depth=1, weight=1.0, projector_width=16)
    repa = build_alignment(options, context("a", "b"))
    batch = make_batch(encoders=("a", "b"))
    parts = [
        F.cosine_similarity(p(batch.hidden[0]), batch.tokens[n], dim=-1).mean()
        for n, p in zip("ab", repa.projectors, strict=True)
    ]
    torch.testing.assert_close(repa(batch).loss, -(parts[0] + parts[1]) / 2, rtol=1e-5, atol=1e-6)
