"""The contrastive alignment against a plain loop, its copies, and the split of the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vrpo.alignment.base import AlignmentBatch, AlignmentContext, GlobalTargets
from vrpo.alignment.contrastive import Contrastive, token_identity
from vrpo.alignment.registry import build_alignment
from vrpo.config import parse_experiment
from vrpo.config.alignments import ALIGNMENT_NAMES
from vrpo.config.alignments.contrastive import ContrastiveOptions
from vrpo.config.reading import read_yaml
from vrpo.errors import UserError
from vrpo.models.checkpoints import read_network

from tests.fixtures.training import Toy, milestone_file

G, N, W, D = 6, 5, 12, 7


def build(*encoders: str, **changes: object) -> Contrastive:
    options = {"kind": "contrastive", "encoders": encoders or ("a",), "depth": 1}
    options |= {"projector_width": 16, "temperature": 0.2, **changes}
    torch.manual_seed(0)
    context = AlignmentContext((4, 6, 6), W, dict.fromkeys(options["encoders"], (N, D)))
    return build_alignment(ContrastiveOptions(**options), context)


def images(*encoders: str) -> tuple[Tensor, GlobalTargets]:
    """Hidden tokens of G images and their encoder tokens, all in one micro-batch."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(G, N, W, generator=generator).requires_grad_()
    tokens = {name: torch.randn(G, N, D, generator=generator) for name in encoders or ("a",)}
    return hidden, GlobalTargets(tokens, torch.arange(G), torch.arange(G))


def micro_batch(hidden: Tensor, targets: GlobalTargets) -> AlignmentBatch:
    """Those of the images that `targets.places` names."""
    places = targets.places
    return AlignmentBatch(
        hidden=[hidden[places]],
        tokens={name: tokens[places] for name, tokens in targets.tokens.items()},
        noise_level=torch.linspace(0, 1, G)[places],
        error=torch.ones(len(places)),
        x0=torch.zeros(len(places), 4, 6, 6),
        x0_hat=lambda: torch.zeros(len(places), 4, 6, 6),
        global_targets=targets,
    )


def plain_loop(loss: Contrastive, hidden: Tensor, targets: GlobalTargets) -> Tensor:
    """Equation 7, image by image and token by token, in float64."""
    terms = []
    for projector, tokens in zip(loss.projectors, targets.tokens.values(), strict=True):
        mu = projector(hidden).double()
        for i in range(len(hidden)):
            for n in range(N):
                negatives = [
                    j
                    for j in range(len(tokens))
                    if targets.rows[j] != targets.rows[i]
                    and not torch.equal(tokens[j, n], tokens[i, n])
                ]
                scores = [
                    F.cosine_similarity(mu[i, n], tokens[j, n].double(), dim=0)
                    / loss.options.temperature
                    for j in (i, *negatives)
                ]
                terms.append(torch.stack(scores).logsumexp(0) - scores[0])
    return loss.options.weight * torch.stack(terms).mean()


def assert_is_the_plain_loop(loss: Contrastive, hidden: Tensor, targets: GlobalTargets) -> None:
    """The loss and its gradients."""
    found, expected = (
        loss(micro_batch(hidden, targets)).loss,
        plain_loop(loss, hidden, targets),
    )
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    wanted = [*loss.parameters(), hidden]
    gradients = (torch.autograd.grad(value, wanted) for value in (found, expected))
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("encoders", [("a",), ("a", "b")])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_loss_and_gradients_are_the_closed_form(
    encoders: tuple[str, ...], temperature: float
) -> None:
    loss = build(*encoders, temperature=temperature, weight=0.7)
    assert_is_the_plain_loop(loss, *images(*encoders))


def test_an_image_that_was_drawn_twice_is_no_negative_of_itself() -> None:
    """Nor where its tokens differ by rounding; for others it is a negative twice."""
    loss, (hidden, targets) = build(), images()
    targets.tokens["a"][4] = targets.tokens["a"][1] * (1 + 1e-6)
    twice = targets._replace(rows=torch.tensor([0, 1, 2, 3, 1, 5]))
    assert_is_the_plain_loop(loss, hidden, twice)
    assert loss(micro_batch(hidden, twice)).loss < loss(micro_batch(hidden, targets)).loss


def test_equal_tokens_are_no_negatives_whatever_their_row() -> None:
    loss, (hidden, targets) = build(), images()
    targets.tokens["a"][4] = targets.tokens["a"][1]  # the same image in another row
    targets.tokens["a"][3, 2] = targets.tokens["a"][0, 2]  # one token
    assert_is_the_plain_loop(loss, hidden, targets)


def test_a_batch_of_copies_has_no_loss_and_a_finite_gradient() -> None:
    loss, (hidden, targets) = build(), images()
    found = loss(micro_batch(hidden, targets._replace(rows=torch.zeros(G, dtype=torch.long)))).loss
    (gradient,) = torch.autograd.grad(found, hidden)
    assert found == 0 and not gradient.any()


def test_different_tokens_have_different_identities() -> None:
    factors = torch.randint(1 << 19, (D,), generator=torch.Generator().manual_seed(0))
    tokens = torch.randn(4096, D, generator=torch.Generator().manual_seed(2))
    tokens[1000:1003] = tokens[0]
    tokens[2000] = tokens[0].flip(0)  # the same values in another order
    assert len(token_identity(tokens, factors).unique()) == 4096 - 3
    whole, part = token_identity(tokens, factors), token_identity(tokens[7:11], factors)
    assert torch.equal(whole[7:11], part)
    nothing = torch.full((1, 4096), torch.finfo().min)  # the sum does not overflow
    assert token_identity(nothing, torch.full((4096,), (1 << 19) - 1)) < 0


@pytest.mark.parametrize("parts", [2, 3])
def test_the_loss_is_the_mean_over_any_parts_of_the_batch(parts: int) -> None:
    loss, (hidden, targets) = build(), images()
    whole = loss(micro_batch(hidden, targets)).loss
    losses = [
        loss(micro_batch(hidden, targets._replace(places=places))).loss
        for places in targets.places.chunk(parts)
    ]
    torch.testing.assert_close(torch.stack(losses).mean(), whole, rtol=1e-6, atol=0)


def test_half_precision_tokens_are_compared_in_fp32() -> None:
    loss, (hidden, targets) = build(), images()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(micro_batch(hidden.detach().bfloat16() * 1e4, targets)).loss
    assert found.dtype == torch.float32 and found.isfinite()


@pytest.mark.usefixtures("one_thread")
def test_ranks_and_micro_batches_change_no_result(tmp_path: Path) -> None:
    """20 steps of 8 of 50 images: three ends of epochs, where an image may be drawn twice."""
    toy = Toy(tmp_path)
    assert toy.drive(20, "ranks", 2, tmp_path / "two" / "contrastive-sit") == [0, 0]
    runs = [tmp_path / "two" / "contrastive-sit"]
    for accumulation in (1, 2, 4):
        config = toy.config("contrastive", accumulation=accumulation)
        runs.append(tmp_path / f"parts{accumulation}")
        toy.train_to(config, runs[-1], 20)
    rows, weights = zip(*(result(run) for run in runs), strict=True)
    assert {"contrastive", "alignment"} < set(rows[0].dtype.names)
    assert rows[1]["contrastive"][-1] < rows[1]["contrastive"][0]
    for other in (0, 2, 3):
        for name in rows[1].dtype.names:
            np.testing.assert_allclose(rows[other][name], rows[1][name], rtol=1e-5, atol=1e-5)
        for name, values in weights[1].items():
            torch.testing.assert_close(weights[other][name], values, rtol=1e-4, atol=1e-5)


def result(run: Path) -> tuple[np.ndarray, dict[str, Tensor]]:
    rows = np.genfromtxt(run / "train.csv", delimiter=",", names=True)
    return rows, read_network(milestone_file(run, 20))[0]


def test_a_batch_without_negatives_is_refused_while_planning() -> None:
    content = read_yaml("config/mini.yaml")
    content["alignments"] = {
        "none": {"kind": "none"},
        "pairs": {"kind": "contrastive", "encoders": ["vit"], "depth": 2},
    }
    content["runs"] = {"sit-pairs": {"model": "mini/2", "process": "sit", "alignment": "pairs"}}
    assert parse_experiment(content, "mini").alignments["pairs"].temperature == 0.1
    content["training"]["batch_size"] = 1
    told = r"alignments.pairs.kind: .* no negatives in a batch of one image .*; take 2 or more"
    with pytest.raises(UserError, match=told) as error:
        parse_experiment(content, "mini")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("change", [{"weight": 0}, {"temperature": 0}])
def test_options_without_a_meaning_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="greater than"):
        build(**change)


def test_it_has_a_name_in_figures() -> None:
    assert ALIGNMENT_NAMES["contrastive"] == "REPA (contrastive)"
