"""SRA against a plain loop and its own code, its targets, and the split of the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vrpo.alignment.base import AlignmentContext
from vrpo.alignment.registry import build_alignment
from vrpo.alignment.sra import SRA
from vrpo.config import parse_experiment
from vrpo.config.alignments import ALIGNMENT_NAMES, SRAOptions
from vrpo.config.processes import DDPMOptions, InterpolantOptions
from vrpo.config.reading import read_yaml
from vrpo.config.training import TrainingOptions
from vrpo.errors import UserError
from vrpo.models.transformer import build_transformer
from vrpo.processes.registry import build_process
from vrpo.training.objective import Objective
from vrpo.training.plan import step_gaps

from tests.fixtures import golden
from tests.fixtures.alignment import batch
from tests.fixtures.training import Toy, assert_equal_whatever_the_split, losses

CPU = torch.device("cpu")


def build(width: int = 12, **changes: object) -> SRA:
    options = {"kind": "sra", "depth": 1, "target_depth": 2, **changes}
    torch.manual_seed(0)
    return build_alignment(SRAOptions(**options), AlignmentContext((4, 6, 6), width, {}))


@pytest.mark.parametrize("beta", [0.05, 1.0])
def test_loss_and_gradients_are_the_closed_form(beta: float) -> None:
    loss, given = build(beta=beta, weight=0.7), batch(golden.draw(1, 3, 5, 12).requires_grad_())
    given.cleaner_hidden = golden.draw(2, 3, 5, 12)
    terms = []
    projected = loss.projector(given.hidden[0]).double()
    for p, h in zip(projected.flatten(), given.cleaner_hidden.double().flatten(), strict=True):
        d = (p - h).abs()
        terms.append(d**2 / (2 * beta) if d < beta else d - beta / 2)
    found, expected = loss(given).loss, 0.7 * sum(terms) / len(terms)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    wanted = [*loss.parameters(), given.hidden[0]]
    gradients = (
        torch.autograd.grad(value, wanted, retain_graph=True) for value in (found, expected)
    )
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


def objective(kind: str, prefix: str = "") -> Objective:
    """A network and projector of golden weights under SiT (`sit`) or DiT (`dit`)."""
    options = InterpolantOptions(kind="interpolant") if kind == "sit" else DDPMOptions(kind="ddpm")
    network = build_transformer(golden.MODEL, golden.LATENT, 4 if kind == "sit" else 8)
    alignment = build(golden.MODEL.width, weight=1.0)
    golden.fill(network, prefix)
    for name, layer in (("linear1", alignment.projector[0]), ("linear2", alignment.projector[2])):
        golden.fill(layer, f"{prefix}ap_head.{name}.")
    return Objective(network, alignment, build_process(options), TrainingOptions())


@pytest.mark.parametrize(
    ("kind", "t", "gap"), [("sit", [0.6, 0.1], [0.1, 0.15]), ("dit", [600, 100], [0.1, 0.05])]
)
def test_loss_and_gradients_equal_the_original(kind: str, t: list, gap: list[float]) -> None:
    """From the latents on: the averaged network's noise level, its tokens, the loss."""
    values, own, averaged = golden.load("unguided"), objective(kind), objective(kind, "teacher.")
    x0, noise = golden.draw(1, 2, *golden.LATENT), golden.draw(2, 2, *golden.LATENT)
    given = x0, noise, torch.tensor(t), golden.LABELS
    cleaner = averaged.cleaner_hidden(*given, torch.tensor(gap))
    loss, metrics = own(*given, {}, cleaner_hidden=cleaner)
    torch.testing.assert_close(metrics["alignment"], values[f"sra_{kind}"], rtol=1e-5, atol=0)
    first, last = own.alignment.projector[0].weight, own.alignment.projector[2].bias
    head, bias = torch.autograd.grad(loss, [first, last])
    torch.testing.assert_close(head[::8], values[f"sra_{kind}_head"], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(bias, values[f"sra_{kind}_bias"], rtol=1e-3, atol=1e-7)
    assert not cleaner.requires_grad


def test_targets_have_less_noise() -> None:
    gap = torch.tensor([0.0, 0.0501, 0.2, 0.9])
    sit = build_process(InterpolantOptions(kind="interpolant"))
    t = torch.tensor([0.3, 0.3, 0.9, 0.5])
    expected = torch.tensor([0.3, 0.2499, 0.7, 0.0])
    torch.testing.assert_close(sit.noise_level(sit.with_less_noise(t, gap)), expected)
    assert (sit.with_less_noise(t, gap) > 0).all()
    dit = build_process(DDPMOptions(kind="ddpm"))
    assert dit.with_less_noise(torch.tensor([300, 300, 900, 500]), gap).tolist() == [
        300,
        250,
        700,
        0,
    ]


def test_gaps_are_a_function_of_seed_and_step() -> None:
    gaps = step_gaps(0.2, 0, 5, 1000, CPU)
    assert torch.equal(gaps, step_gaps(0.2, 0, 5, 1000, CPU))
    assert not torch.equal(gaps, step_gaps(0.2, 0, 6, 1000, CPU))
    assert 0 <= gaps.min() < 0.01 and 0.19 < gaps.max() < 0.2


@pytest.mark.usefixtures("one_thread")
def test_the_averaged_network_gives_the_targets(tmp_path: Path) -> None:
    """After a step the loss follows how fast it is averaged, and the first one does not."""
    toy, rows = Toy(tmp_path), []
    for decay in (0.5, 0.9):
        config = toy.config("sra", ema_decay=decay)
        toy.train_to(config, tmp_path / f"decay{decay}", 4, log_every=1)
        rows.append(torch.from_numpy(losses(tmp_path / f"decay{decay}")))
    assert torch.equal(rows[0][0], rows[1][0]) and not torch.equal(rows[0][3], rows[1][3])


@pytest.mark.usefixtures("one_thread")
def test_ranks_and_micro_batches_change_no_result(tmp_path: Path) -> None:
    assert_equal_whatever_the_split(Toy(tmp_path), "sra", "dit")


def test_half_precision_tokens_are_compared_in_fp32() -> None:
    given = batch(1e4 * torch.ones(2, 5, 12, dtype=torch.bfloat16))
    given.cleaner_hidden = torch.zeros(2, 5, 12, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = build()(given).loss
    assert found.dtype == torch.float32 and found.isfinite()


def content(**changes: object) -> dict:
    content = read_yaml("config/mini.yaml")
    content["alignments"]["own"] = {"kind": "sra", "depth": 1, "target_depth": 3, **changes}
    content["runs"] = {"sit-own": {"model": "mini/2", "process": "sit", "alignment": "own"}}
    return content


def test_configs_that_do_not_fit_are_refused() -> None:
    assert parse_experiment(content(), "mini").alignments["own"].encoders == []
    with pytest.raises(UserError, match=r"unknown option `encoders` in `alignments.own`"):
        parse_experiment(content(encoders=["vit"]), "mini")
    told = r"takes block 99, .* lower `alignments.own.target_depth`"
    with pytest.raises(UserError, match=told) as error:
        parse_experiment(content(target_depth=99), "mini")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("change", [{"weight": 0}, {"beta": 0}, {"noise_gap": 1.1}])
def test_options_without_a_meaning_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="than"):
        build(**change)


def test_a_network_without_hidden_is_refused() -> None:
    process = build_process(InterpolantOptions(kind="interpolant"))
    with pytest.raises(UserError, match="has no method `hidden`"):
        Objective(torch.nn.Identity(), build(), process, TrainingOptions())


def test_it_has_a_name_in_figures() -> None:
    assert ALIGNMENT_NAMES["sra"] == "SRA"
