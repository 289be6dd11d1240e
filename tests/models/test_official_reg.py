"""REG's checkpoints, in and out."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vrpo.errors import UserError
from vrpo.models.backbones import build_network
from vrpo.models.checkpoints import load_milestone
from vrpo.models.embeddings import position_embedding
from vrpo.models.official import export_checkpoint, import_checkpoint
from vrpo.models.projector import Projector
from vrpo.sampling.reward import load_projectors

from tests.fixtures import golden
from tests.fixtures.released import assert_equal, repa_state

WIDTH = 24


def reg_state() -> dict[str, Tensor]:
    """As REG's code saves it."""
    state = golden.fill(build_network(golden.MODEL, golden.LATENT, 4, WIDTH)).state_dict()
    projector = golden.fill(Projector(48, 40, WIDTH), "projectors.0.").state_dict()
    positions = torch.cat([torch.zeros(1, 1, 48), position_embedding(48, 4)], dim=1)
    named = {f"projectors.0.{name}": value for name, value in projector.items()}
    return state | named | {"pos_embed": positions}


def imported(folder: Path, state: dict[str, Tensor], **options: Any) -> Path:
    arguments = Namespace(enc_type="dinov2-vit-b", encoder_depth=2, proj_coeff=0.5, cls=0.03)
    torch.save({"ema": state, "args": arguments, "steps": 400_000}, folder / "reg.pt")
    import_checkpoint(folder / "reg.pt", folder / "m.safetensors", heads=4, **options)
    return folder / "m.safetensors"


@pytest.mark.parametrize("family", [None, "reg", "repa"])
def test_it_predicts_as_the_original_and_goes_back(tmp_path: Path, family: str | None) -> None:
    milestone, values = imported(tmp_path, reg_state(), family=family), golden.load("reg")
    network, description = load_milestone(milestone)
    assert description["class_token"] == WIDTH and description["step"] == 400_000
    assert description["source"]["family"] == "reg"
    assert description["alignment"] == {
        "kind": "reg",
        "encoders": ["dinov2-vit-b"],
        "depth": 2,
        "weight": 0.5,
        "projector_width": 40,
        "class_token_weight": 0.03,
    }
    state = network.joint.pack(golden.draw(5, 2, *golden.LATENT), golden.draw(6, 2, WIDTH))
    with torch.no_grad():
        given = state, torch.tensor([0.3, 0.8]), golden.LABELS
        prediction, (hidden,) = network(*given, hidden_after=(2,))
        (projector,) = load_projectors(milestone, "cpu").projectors
        projected = projector(hidden)
    latents, token = network.joint.split_prediction(prediction)
    torch.testing.assert_close(latents, values["prediction"], rtol=0, atol=1e-5)
    torch.testing.assert_close(token, values["class_token"], rtol=0, atol=1e-5)
    torch.testing.assert_close(projected, values["projected"], rtol=0, atol=1e-5)
    assert export_checkpoint(milestone, tmp_path / "back.pt") == "reg"
    assert_equal(torch.load(tmp_path / "back.pt", weights_only=True)["ema"], reg_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos_embed": torch.ones(1, 17, 48)}, "the class token's position is not zero"),
        ({"pos_embed": position_embedding(48, 4)}, "position is not zero"),
        ({"cls_projectors2.weight": torch.ones(3)}, "cls_projectors2.weight or pos_embed is miss"),
        ({"final_layer.linear_cls.bias": torch.ones(25)}, r"linear_cls.bias is \[25\], not \[24\]"),
    ],
)
def test_damaged_ones_are_refused(tmp_path: Path, changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        imported(tmp_path, reg_state() | changes)
    assert not (tmp_path / "m.safetensors").exists()


def test_families_are_not_confused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--family reg: .* has no class token; say `--family repa`"
    ):
        imported(tmp_path, repa_state(), family="reg")
    with pytest.raises(UserError, match=r"--family dit: .* REG's code; say `--family reg`"):
        imported(tmp_path, reg_state(), family="dit")
    milestone = imported(tmp_path, reg_state())
    with pytest.raises(UserError, match=r"--family repa: .* as only REG's; choose reg"):
        export_checkpoint(milestone, tmp_path / "back.pt", family="repa")
    plain = imported(tmp_path, repa_state())
    with pytest.raises(UserError, match=r"--family reg: .* has no class token; choose another"):
        export_checkpoint(plain, tmp_path / "back.pt", family="reg")
