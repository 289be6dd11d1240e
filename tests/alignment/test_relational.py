"""The relational alignment against a plain loop, and what it leaves free."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vrpo.alignment.base import AlignmentContext
from vrpo.alignment.registry import build_alignment
from vrpo.alignment.relational import Relational, relation_error
from vrpo.config.alignments import ALIGNMENT_NAMES, RelationalOptions
from vrpo.errors import UserError

from tests.fixtures import golden
from tests.fixtures.alignment import batch, make_batch, make_repa

N, W, D = 5, 12, 7


def build(*encoders: str, tokens: int = N, **changes: object) -> Relational:
    options = {"kind": "relational", "encoders": encoders or ("a",), "depth": 1}
    options |= {"projector_width": 16, **changes}
    torch.manual_seed(0)
    context = AlignmentContext((4, 6, 6), W, dict.fromkeys(options["encoders"], (tokens, D)))
    return build_alignment(RelationalOptions(**options), context)


def plain_loop(loss: Relational, hidden: Tensor, encoded: dict[str, Tensor]) -> Tensor:
    """Equation 10, token by token, in float64."""
    cosines, errors = [], []
    for projector, target in zip(loss.projectors, encoded.values(), strict=True):
        for p, y in zip(projector(hidden).double(), target.double(), strict=True):
            cosines += [F.cosine_similarity(p[n], y[n], dim=0) for n in range(N)]
            for n in range(N):
                for m in set(range(N)) - {n}:
                    own, wanted = (F.cosine_similarity(v[n], v[m], dim=0) for v in (p, y))
                    errors.append((own - wanted) ** 2)
    cosine, error = sum(cosines) / len(cosines), sum(errors) / len(errors)
    return loss.options.relation_weight * error - loss.options.weight * cosine


@pytest.mark.parametrize("encoders", [("a",), ("a", "b")])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_loss_and_gradients_are_the_closed_form(encoders: tuple[str, ...], weight: float) -> None:
    loss, hidden = build(*encoders, weight=weight), golden.draw(1, 3, N, W).requires_grad_()
    encoded = {name: golden.draw(i, 3, N, D) for i, name in enumerate(encoders, start=2)}
    found, expected = loss(batch(hidden, **encoded)).loss, plain_loop(loss, hidden, encoded)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    wanted = [*loss.parameters(), hidden]
    for got, want in zip(
        *(torch.autograd.grad(value, wanted, retain_graph=True) for value in (found, expected)),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_relations_are_free_of_rotation_and_length() -> None:
    tokens = golden.draw(1, 2, N, D)
    rotation = torch.linalg.qr(golden.draw(2, D, D))[0]
    lengths = golden.draw(3, 2, N, 1).abs() + 0.1
    assert relation_error(lengths * tokens @ rotation, tokens).max() < 1e-12
    assert relation_error(golden.draw(4, 2, N, D), tokens).min() > 1e-2


def test_without_the_relations_it_is_repa() -> None:
    given = make_batch()
    loss = build(relation_weight=1e-30)(given).loss
    torch.testing.assert_close(loss, make_repa()(given).loss, rtol=1e-6, atol=0)


def test_tokens_of_length_zero_have_a_finite_gradient() -> None:
    hidden = torch.zeros(2, N, W, requires_grad=True)
    found = build()(batch(hidden, a=torch.zeros(2, N, D))).loss
    (gradient,) = torch.autograd.grad(found, hidden)
    assert found == 0 and gradient.isfinite().all()


def test_half_precision_tokens_are_compared_in_fp32() -> None:
    tokens = 1e4 * golden.draw(1, 2, N, D).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = relation_error(tokens, golden.draw(2, 2, N, D))
    assert found.dtype == torch.float32 and found.isfinite().all()


def test_an_encoder_with_a_single_token_is_refused() -> None:
    with pytest.raises(UserError, match=r"encoders.a: gives one token an image, .*; choose"):
        build(tokens=1)


def test_options_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="greater than"):
        build(relation_weight=0)


def test_it_has_a_name_in_figures() -> None:
    assert ALIGNMENT_NAMES["relational"] == "REPA (relational)"
