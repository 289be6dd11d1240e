"""Custom losses are tried before the first job: what is wrong with them is one line."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from typer.testing import CliRunner

from vrpo.alignment.base import Alignment, AlignmentContext
from vrpo.alignment.trial import try_loss
from vrpo.cli import app
from vrpo.config.alignments import KINDS, CustomOptions
from vrpo.errors import UserError
from vrpo.models.backbones import import_class

from tests.fixtures import ROOT

CODE = """
import torch

from vrpo.alignment.base import Alignment, AlignmentResult, ProjectedAlignment


class Good(ProjectedAlignment):
    def forward(self, batch):
        loss = -self.cosine(batch.hidden[0], batch.tokens).mean()
        return AlignmentResult(loss, {"alignment": loss.detach()})


class OfAll(Alignment):
    needs_global_targets = True

    def forward(self, batch):
        whole, places = batch.global_targets.tokens["vit"], batch.global_targets.places
        assert torch.equal(whole[places], batch.tokens["vit"]) and len(whole) > len(places)
        assert batch.encoder_attention == {}
        loss = batch.x0_hat().square().mean() + batch.error.mean()
        return AlignmentResult(loss * whole.std())


class OfEights(Alignment):
    hidden_after = (1,)

    def forward(self, batch):
        groups = batch.hidden[0].unflatten(0, (-1, 8))
        return AlignmentResult(groups.mean(dim=1).square().mean())


class Attentive(Good):
    attention_of = (1,)


class TooDeep(Good):
    hidden_after = (9,)


class Constant(Alignment):
    def forward(self, batch):
        return AlignmentResult(batch.error.new_ones(()))


class Unbuilt(Good):
    def __init__(self, options, context):
        raise RuntimeError("no\\nmore")


class Misshapen(Good):
    def forward(self, batch):
        return AlignmentResult((batch.hidden[0] - batch.tokens["vit"]).mean())


class NoMean(Good):
    def forward(self, batch):
        return AlignmentResult(self.cosine(batch.hidden[0], batch.tokens))


class Number(Good):
    def forward(self, batch):
        return AlignmentResult(batch.error.mean(), {"share": 0.5})


class Vector(Good):
    def forward(self, batch):
        return AlignmentResult(batch.error.mean(), {"share": batch.error.detach()})


class Taken(Good):
    def forward(self, batch):
        return AlignmentResult(batch.error.mean(), {"denoising": batch.error.detach().mean()})


class NotOne(Good):
    def forward(self, batch):
        return batch.error.mean()


class Ending(Good):
    def finish_step(self, all_reduce, valid):
        all_reduce(self.nothing)


class Unused(Good):
    def forward(self, batch):
        return AlignmentResult(batch.hidden[0].square().mean())


class NoGradient(Good):
    def forward(self, batch):
        return AlignmentResult(self.cosine(batch.hidden[0], batch.tokens).mean().detach())


class Asking(Good):
    def forward(self, batch):
        return AlignmentResult(batch.old_cosine.mean())
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tried_losses.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)


def attempt(name: str, precision: str = "fp32", batch: int = 16) -> list[str] | None:
    options = CustomOptions(
        kind="custom", loss=f"tried_losses:{name}", encoders=["vit"], depth=1, projector_width=16
    )
    context = AlignmentContext((4, 8, 8), 12, {"vit": (16, 6)})
    loss_class = import_class(options.loss, Alignment, "alignments")
    settings = {"tokens": 16, "depth": 2, "precision": precision, "batch": batch}
    return try_loss(loss_class, options, context, **settings)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loss_that_works_names_what_it_trains(precision: str) -> None:
    assert attempt("Good", precision) == ["hidden tokens"]
    assert attempt("OfAll", precision) == ["error", "x0_hat"]
    assert attempt("OfEights", precision) == ["hidden tokens"]
    assert attempt("Attentive", precision) is None
    assert attempt("Constant", precision) == []


def test_random_numbers_of_the_caller_stay() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    attempt("Good")
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Missing", "`tried_losses:Missing` cannot be imported"),
        ("Unbuilt", r"Unbuilt: fails .* \(RuntimeError: no more, tried_losses.py line \d+\)"),
        ("Misshapen", r"Misshapen: fails .* size of tensor .* tried_losses.py line \d+\); correct"),
        ("NoMean", r"NoMean: its `forward` returned `loss` of shape \[16\]; return its mean"),
        ("Number", "Number: its `forward` returned `share` as a float; return a scalar tensor"),
        ("Vector", r"Vector: its `forward` returned `share` of shape \[16\]; return its mean"),
        ("Taken", "a metric `denoising`, which the trainer logs itself; give it another name"),
        ("TooDeep", "takes block 9, but the network has 2 blocks; correct `hidden_after`"),
        ("NotOne", "NotOne: its `forward` returned a Tensor; return an AlignmentResult"),
        ("Ending", r"Ending: fails .* no attribute 'nothing', tried_losses.py line \d+"),
        ("Unused", r"Unused: its parameter `projectors.0.0.weight` has no gradient.*; use it in"),
        ("NoGradient", r"NoGradient: its parameter `projectors.0.0.weight` has no gradient"),
        ("Asking", r"Asking: fails .* 'NoneType' object has no attribute 'mean'"),
    ],
)
def test_a_loss_that_does_not_work_is_one_line(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        attempt(name)
    assert "\n" not in str(error.value) and "; " in str(error.value)


KINDS_BY_NAME = {get_args(each.model_fields["kind"].annotation)[0]: each for each in KINDS}
NEED_MORE = {"vrpo", "reg", "custom"}  # a critic, a class token, a class
WITH_ENCODER = {name for name, each in KINDS_BY_NAME.items() if "encoders" in each.model_fields}


@pytest.mark.parametrize("kind", sorted(WITH_ENCODER - NEED_MORE))
def test_losses_of_this_package_pass(kind: str) -> None:
    """The random values are what the trainer gives."""
    options = KINDS_BY_NAME[kind](kind=kind, encoders=["vit"], depth=1)
    context = AlignmentContext((4, 8, 8), 12, {"vit": (16, 6)})
    loss_class = import_class(options.loss, Alignment, "alignments")
    settings = {"tokens": 16, "depth": 12, "precision": "fp32", "batch": 4}
    trained = try_loss(loss_class, options, context, **settings)
    assert trained == (None if options.attention_of else ["hidden tokens"])


@pytest.mark.parametrize(
    ("name", "state", "words"),
    [
        ("Good", "ok", "Good runs on random values, and has a gradient for hidden tokens"),
        ("Constant", "ok", "Constant runs on random values, and has no gradient for the network"),
        ("NoMean", "missing", "alignments.mine.loss: NoMean: its `forward` returned"),
    ],
)
def test_the_check_of_an_experiment_tries_its_losses(
    name: str, state: str, words: str, tmp_path: Path
) -> None:
    """With each network that it trains."""
    config = tmp_path / "mine.yaml"
    config.write_text(
        "alignments: {mine: {kind: custom, encoders: [vit], depth: 2, projector_width: 16, "
        f"loss: 'tried_losses:{name}'}}}}\n"
        "runs:\n"
        "  sit-mine: {model: mini/2, process: sit, alignment: mine}\n"
        "  deep-mine: {model: deep/2, process: sit, alignment: mine}\n"
        "sizes: {deep: {depth: 4, width: 48, heads: 2}}\n"
    )
    files = [f"--config={ROOT / 'config/mini.yaml'}", f"--config={config}"]
    result = CliRunner().invoke(app, ["check", "--weights-only", *files])
    told = " ".join(result.output.split())
    for network in ("SiT-mini/2", "SiT-deep/2"):
        assert f"{state} loss of mine, {network} {words}" in told
