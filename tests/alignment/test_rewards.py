"""Running statistics of rewards by noise level."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vrpo.alignment.rewards import NoiseLevelStatistics

from tests.fixtures.alignment import (
    generator,
)


@settings(max_examples=25, deadline=None)
@given(st.floats(-100, 100), st.floats(0.01, 100), st.integers(0, 1000))
def test_standardised_rewards_ignore_offset_and_scale(
    offset: float, scale: float, seed: int
) -> None:
    """Adding a constant to a raw reward, or scaling it, changes no advantage.

    Both are done from the start of training on.
    """
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
    """Two rollouts that differ by chance have any standard deviation.

    `least` waits for more rollouts, counted as the sums decay.
    """
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


def test_a_skipped_step_leaves_the_statistics_alone() -> None:
    statistics = NoiseLevelStatistics(1)
    statistics.observe(torch.full((1, 4), float("nan")), torch.rand(4))
    statistics.finish_step(lambda sums: sums, torch.tensor(False))
    assert torch.equal(statistics.sums, torch.zeros_like(statistics.sums))
    assert torch.equal(statistics.pending, torch.zeros_like(statistics.pending))
