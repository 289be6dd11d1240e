"""Advantages of a group, their shares, and the clipped surrogate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vrpo.alignment.advantages import SHARES, advantage_shares, clipped_surrogate, group_advantages

from tests.fixtures.alignment import (
    generator,
    make_vrpo,
    warm,
)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3, 4, 8]))
def test_advantages_have_mean_zero_per_group(seed: int, group_size: int) -> None:
    rewards = torch.randn(24, generator=generator(seed)) * 10.0 ** (seed % 7 - 3)
    advantages = group_advantages(rewards, group_size, max_advantage=float("inf"))
    torch.testing.assert_close(
        advantages.view(-1, group_size).mean(1), torch.zeros(24 // group_size), rtol=0, atol=1e-5
    )
    assert group_advantages(rewards, group_size, max_advantage=0.5).abs().max() <= 0.5


def test_equal_rewards_have_no_advantage() -> None:
    assert torch.equal(group_advantages(torch.full((8,), 3.0), 4), torch.zeros(8))


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
