"""iREPA against its own code (tests/golden), plain loops and what defines it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vrpo.alignment.base import AlignmentContext
from vrpo.alignment.irepa import IREPA
from vrpo.alignment.registry import build_alignment
from vrpo.alignment.spatial import spatial_normalisation
from vrpo.alignment.vrpo import VRPO
from vrpo.config.alignments import IREPAOptions, VRPOOptions
from vrpo.models.projector import ConvolutionalProjector

from tests.fixtures import golden
from tests.fixtures.alignment import batch

VALUES = golden.load("alignment")
HIDDEN, TOKENS = (
    golden.draw(11, 3, 16, 12),
    2 * golden.draw(12, 3, 16, 10) + golden.draw(13, 1, 1, 10),
)


def context(*encoders: str) -> AlignmentContext:
    return AlignmentContext((4, 8, 8), 12, dict.fromkeys(encoders, (16, 10)))


def build(**changes: object) -> IREPA:
    options = IREPAOptions(kind="irepa", encoders=["a"], depth=1, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_alignment(options, context("a"))


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_loss_and_gradient_equal_the_original(kernel_size: int) -> None:
    alignment = build(kernel_size=kernel_size, weight=1.0)
    golden.fill(alignment.projectors[0], f"conv{kernel_size}.")
    hidden = HIDDEN.clone().requires_grad_()
    loss = alignment(batch(hidden, a=TOKENS)).loss
    torch.testing.assert_close(
        alignment.projectors[0](hidden), VALUES[f"irepa_projected_{kernel_size}"], rtol=0, atol=2e-6
    )
    torch.testing.assert_close(loss, VALUES[f"irepa_loss_{kernel_size}"], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss, hidden)[0],
        VALUES[f"irepa_gradient_{kernel_size}"],
        rtol=0,
        atol=1e-6,
    )


def test_targets_equal_the_original_and_are_what_they_say() -> None:
    torch.testing.assert_close(
        spatial_normalisation(TOKENS, 0.6), VALUES["irepa_target"], rtol=0, atol=2e-6
    )
    whole = spatial_normalisation(TOKENS, 1.0)
    torch.testing.assert_close(whole.mean(dim=1), torch.zeros(3, 10), rtol=0, atol=1e-6)
    torch.testing.assert_close(whole.std(dim=1), torch.ones(3, 10), rtol=0, atol=1e-5)
    assert torch.isfinite(spatial_normalisation(torch.ones(1, 4, 2), 1.0)).all()


def test_kernel_1_is_a_linear_layer_and_kernel_3_sees_the_neighbours_alone() -> None:
    linear = ConvolutionalProjector(12, 10, 1)
    torch.testing.assert_close(
        linear(HIDDEN), F.linear(HIDDEN, linear.weight[:, :, 0, 0], linear.bias), rtol=0, atol=1e-6
    )
    hidden = HIDDEN.clone().requires_grad_()
    ConvolutionalProjector(12, 10, 3)(hidden)[0, 5].sum().backward()  # row 1, column 1 of 4 x 4
    assert hidden.grad[0].abs().sum(-1).nonzero().flatten().tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_several_encoders_are_averaged_in_fp32() -> None:
    options = IREPAOptions(kind="irepa", encoders=["a", "b"], depth=1, weight=2.0)
    alignment = build_alignment(options, context("a", "b"))
    tokens = {"a": TOKENS, "b": TOKENS.flip(0)}
    parts = [
        F.cosine_similarity(p(HIDDEN), spatial_normalisation(tokens[n], 0.6), dim=-1).mean()
        for n, p in zip("ab", alignment.projectors, strict=True)
    ]
    torch.testing.assert_close(
        alignment(batch(HIDDEN, **tokens)).loss, -(parts[0] + parts[1]), rtol=1e-5, atol=1e-6
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(alignment(batch(1e4 * HIDDEN, **tokens)).loss)


def test_vrpo_with_this_projector_is_irepa_where_eta_is_zero_and_rewards_come_on_top() -> None:
    """Loss and gradients; the semantic reward is iREPA's cosine."""
    hidden, error = (
        HIDDEN.clone().requires_grad_(),
        torch.rand(3, generator=torch.Generator().manual_seed(1)),
    )
    given = batch(hidden, a=TOKENS)
    given.error = error
    irepa = build(weight=2.0, kernel_size=3)
    expected = irepa(given)

    def vrpo(**rewards: object) -> VRPO:
        options = VRPOOptions(
            kind="vrpo",
            encoders=["a"],
            depth=1,
            weight=2.0,
            eta=0.0,
            group_size=3,
            least_rollouts=0,
            spatial={"kernel_size": 3},
            rewards=rewards,
        )
        alignment = build_alignment(options, context("a"))
        alignment.projectors.load_state_dict(irepa.projectors.state_dict())
        return alignment

    result = vrpo()(given)
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        result.metrics["reward_semantic"], -expected.metrics["alignment"], rtol=1e-6, atol=1e-6
    )
    ours, theirs = (torch.autograd.grad(loss, hidden)[0] for loss in (result.loss, expected.loss))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)

    rewarded = vrpo(fidelity={"pathwise": 0.05})
    given.error = error.flip(0)
    rewarded(given)
    rewarded.finish_step(lambda sums: sums, torch.tensor(True))  # the moments of one step
    given.error = error + 0.1
    gain = 0.05 * (error.mean() - given.error.mean()) / error.double().std(correction=0)
    torch.testing.assert_close(
        rewarded(given).loss, expected.loss - gain.float(), rtol=1e-5, atol=1e-6
    )
