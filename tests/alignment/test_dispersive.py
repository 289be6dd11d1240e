"""The dispersive loss against a plain loop and its own code, its groups, and refused options."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vrpo.alignment.base import AlignmentContext
from vrpo.alignment.dispersive import Dispersive
from vrpo.alignment.registry import build_alignment
from vrpo.config import parse_experiment
from vrpo.config.alignments import ALIGNMENT_NAMES, DispersiveOptions, REPAOptions
from vrpo.config.processes import InterpolantOptions
from vrpo.config.reading import read_yaml
from vrpo.config.training import TrainingOptions
from vrpo.errors import UserError
from vrpo.processes.interpolant import Interpolant
from vrpo.training.plan import plan_step

from tests.fixtures import golden
from tests.fixtures.alignment import batch
from tests.fixtures.training import Toy, assert_equal_whatever_the_split


def build(**changes: object) -> Dispersive:
    options = {"kind": "dispersive", "depth": 1, "group_size": 4, **changes}
    return build_alignment(DispersiveOptions(**options), AlignmentContext((4, 6, 6), 12, {}))


def hidden_tokens(count: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 5, 12, generator=generator).requires_grad_()


def plain_loop(loss: Dispersive, hidden: Tensor) -> Tensor:
    """Equation 8, pair by pair, in float64."""
    size, temperature = loss.options.group_size, loss.options.temperature
    logs = []
    for group in hidden.double().flatten(1).split(size):
        terms = [torch.exp(-(a - b).square().mean() / temperature) for a in group for b in group]
        logs.append((sum(terms) / size**2).log())
    return loss.options.weight * sum(logs) / len(logs)


@pytest.mark.parametrize(("group_size", "temperature"), [(2, 0.5), (4, 0.1), (8, 2.0)])
def test_loss_and_gradient_are_the_closed_form(group_size: int, temperature: float) -> None:
    loss = build(group_size=group_size, temperature=temperature, weight=0.7)
    hidden = hidden_tokens()
    found, expected = loss(batch(hidden)).loss, plain_loop(loss, hidden)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    (got,), (want,) = (torch.autograd.grad(value, hidden) for value in (found, expected))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


def test_loss_and_gradient_equal_the_original() -> None:
    """One group; the original has no temperature and leaves the weight to its caller."""
    values, hidden = golden.load("unguided"), golden.draw(200, 8, 16, 12).requires_grad_()
    found = build(group_size=8, temperature=1, weight=1)(batch(hidden)).loss
    torch.testing.assert_close(found, values["dispersive"], rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(found, hidden)
    torch.testing.assert_close(gradient, values["dispersive_gradient"], rtol=1e-4, atol=1e-9)


def test_equal_tokens_have_the_greatest_loss_and_distant_ones_the_least() -> None:
    loss, hidden = build(weight=1.0), hidden_tokens()
    equal = hidden.detach()[:1].expand(8, -1, -1).clone().requires_grad_()
    found = loss(batch(equal)).loss
    (gradient,) = torch.autograd.grad(found, equal)
    assert found.item() == pytest.approx(0, abs=1e-6) and gradient.isfinite().all()
    assert loss(batch(1e3 * hidden)).loss.item() == pytest.approx(-math.log(4))
    assert loss(batch(hidden.detach())).metrics["alignment"] < 0


def test_half_precision_tokens_are_compared_in_fp32() -> None:
    hidden = hidden_tokens().detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = build()(batch(1e3 * hidden.bfloat16() + 1e4)).loss
    assert found.dtype == torch.float32 and found.isfinite()


def test_groups_keep_the_order_of_the_batch() -> None:
    """They are random images at random noise levels, as one device's batch in the original."""
    plans = [
        plan_step(
            Interpolant(InterpolantOptions(kind="interpolant")),
            options,
            TrainingOptions(batch_size=32),
            seed=0,
            step=3,
            count=100,
        )
        for options in (
            DispersiveOptions(kind="dispersive", group_size=16),
            REPAOptions(kind="repa", encoders=["a"]),
        )
    ]
    assert torch.equal(plans[0].times, plans[1].times)
    assert plans[0].draw.tolist() == list(range(32))


@pytest.mark.usefixtures("one_thread")
def test_ranks_and_micro_batches_change_no_result(tmp_path: Path) -> None:
    assert_equal_whatever_the_split(Toy(tmp_path), "dispersive")


def content(**changes: object) -> dict:
    content = read_yaml("config/mini.yaml")
    content["alignments"]["apart"] = {"kind": "dispersive", "depth": 2, **changes}
    content["runs"] = {"sit-apart": {"model": "mini/2", "process": "sit", "alignment": "apart"}}
    return content


def test_it_needs_no_encoder_and_refuses_one() -> None:
    assert parse_experiment(content(), "mini").alignments["apart"].encoders == []
    with pytest.raises(UserError, match=r"unknown option `encoders` in `alignments.apart`"):
        parse_experiment(content(encoders=["vit"]), "mini")


@pytest.mark.parametrize("batch_size", [1, 24])
def test_a_batch_that_is_not_whole_groups_is_refused_while_planning(batch_size: int) -> None:
    refused = content()
    refused["training"]["batch_size"] = batch_size
    for name in [name for name in refused["alignments"] if name != "apart"]:
        del refused["alignments"][name]
    told = r"alignments.apart.group_size: groups of 16 rollouts do not divide .*; choose a batch"
    with pytest.raises(UserError, match=told) as error:
        parse_experiment(refused, "mini")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("change", [{"weight": 0}, {"temperature": 0}, {"group_size": 1}])
def test_options_without_a_meaning_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="greater than"):
        build(**change)


def test_it_has_a_name_in_figures() -> None:
    assert ALIGNMENT_NAMES["dispersive"] == "Dispersive"
