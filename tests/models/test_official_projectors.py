"""Files of iREPA's and HASTE's code: outputs of their projectors, alignment, and export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from vrpo.cli import app
from vrpo.config import parse_experiment
from vrpo.config.reading import read_yaml
from vrpo.errors import UserError
from vrpo.models.checkpoints import load_milestone, read_milestone
from vrpo.models.official import export_checkpoint, import_checkpoint
from vrpo.models.projector import ConvolutionalProjector, Projector
from vrpo.report.collect import _names

from tests.fixtures import golden
from tests.fixtures.projectors import LAYERS, TOKEN_WIDTH, WIDTH, TheirLayer, mlp, projector_state
from tests.fixtures.weights import REPA_ALIGNMENT, State, official_state

VALUES = golden.load("networks")
IREPA = {
    "model": "SiT-XL/2",
    "projection_layer_type": "conv",
    "proj_kwargs_kernel_size": 3,
    "spnorm_method": "zscore",
    "zscore_alpha": 0.6,
    "cls_token_weight": 0.2,
    "enc_type": "dinov2-vit-b",
    "encoder_depth": 2,
    "proj_coeff": "1.0",
    "projection_loss_type": "cosine",
    "path_type": "linear",
    "prediction": "v",
    "weighting": "uniform",
    "seed": 4,
}


def imported(
    folder: Path, content: Any, name: str = "0400000.pt", **options: Any
) -> tuple[State, State, dict[str, Any]]:
    torch.save(content, folder / name)
    import_checkpoint(folder / name, folder / "out.safetensors", **{"heads": 4, **options})
    return read_milestone(folder / "out.safetensors")


def ours(projectors: State, kernel: int | None) -> nn.Module:
    """Our projector with these tensors, all of them."""
    module = (
        Projector(WIDTH, 40, TOKEN_WIDTH)
        if kernel is None
        else ConvolutionalProjector(WIDTH, TOKEN_WIDTH, kernel)
    )
    module.load_state_dict(
        {name.removeprefix("projectors.0."): value for name, value in projectors.items()}
    )
    return module


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "module._orig_mod."])
def test_irepa_predicts_and_projects_as_its_code(tmp_path: Path, layer: str, wrapper: str) -> None:
    theirs = TheirLayer(golden.fill(LAYERS[layer]()))
    state = official_state(4) | projector_state(theirs.projection_layer)
    arguments = argparse.Namespace(**{**IREPA, "projection_layer_type": layer})
    content = {
        "model": {},
        "ema": {f"{wrapper}{name}": value for name, value in state.items()},
        "opt": {},
        "args": arguments,
        "steps": 400_000,
    }
    _, projectors, description = imported(tmp_path, content)
    network, _ = load_milestone(tmp_path / "out.safetensors")
    assert (
        network(VALUES["x"], VALUES["t_sit"], golden.LABELS)[0] - VALUES["repa"]
    ).abs().max() < 1e-5
    kernel = {"kernel 3": 3, "kernel 7": 7, "mlp": None}.get(layer, 1)
    tokens = golden.draw(5, 2, 16, WIDTH)
    torch.testing.assert_close(ours(projectors, kernel)(tokens), theirs(tokens), rtol=0, atol=2e-6)
    shared = {"encoders": ["dinov2-vit-b"], "depth": 2, "weight": 1.0}
    own = (
        {"kind": "repa", "projector_width": 40}
        if kernel is None
        else {"kind": "irepa", "kernel_size": kernel, "gamma": 0.6}
    )
    assert description["alignment"] == {**shared, **own}
    assert (description["source"]["family"], description["step"], description["seed"]) == (
        "irepa",
        400_000,
        4,
    )
    assert description["process"] == {"kind": "interpolant", "path": "linear", "time": "uniform"}


@pytest.mark.parametrize("family", [None, "irepa", "repa"])
def test_a_bare_state_of_irepa(tmp_path: Path, family: str | None) -> None:
    """Weights released without arguments; `family` names either of the two, or none."""
    _, projectors, description = imported(
        tmp_path,
        official_state(4) | projector_state(golden.fill(LAYERS["kernel 3"]())),
        family=family,
    )
    assert projectors.keys() == {"projectors.0.weight", "projectors.0.bias"}
    assert description["alignment"] == {
        "kind": "irepa",
        "encoders": ["unknown"],
        "depth": None,
        "weight": None,
        "kernel_size": 3,
        "gamma": None,
    }
    assert description["source"]["family"] == "irepa"


def test_several_projectors(tmp_path: Path) -> None:
    state = projector_state(golden.fill(LAYERS["kernel 1"]()), golden.fill(nn.Conv2d(WIDTH, 30, 1)))
    _, projectors, description = imported(
        tmp_path,
        {
            "ema": official_state(4) | state,
            "args": {**IREPA, "enc_type": "a,b", "proj_coeff": "0.5,1.0"},
        },
    )
    assert {name: len(value) for name, value in projectors.items() if name.endswith("bias")} == {
        "projectors.0.bias": 24,
        "projectors.1.bias": 30,
    }
    assert (description["alignment"]["encoders"], description["alignment"]["weight"]) == (
        ["a", "b"],
        "0.5,1.0",
    )


def test_repa_of_irepas_code_is_repa(tmp_path: Path) -> None:
    arguments = {
        **IREPA,
        "projection_layer_type": "mlp",
        "spnorm_method": "none",
        "proj_coeff": "0.5",
    }
    _, projectors, description = imported(
        tmp_path,
        {"ema": official_state(4) | projector_state(golden.fill(mlp())), "args": arguments},
    )
    assert description["alignment"] == REPA_ALIGNMENT
    assert description["source"]["family"] == "repa" and "projectors.0.4.bias" in projectors


@pytest.mark.parametrize("family", [None, "haste", "repa"])
def test_haste(tmp_path: Path, family: str | None) -> None:
    arguments = argparse.Namespace(
        enc_type="dinov2-vit-b",
        encoder_depth=8,
        proj_coeff=0.5,
        attn_coeff=0.5,
        early_stop_point=250_000,
        seed=0,
    )
    state = official_state(4) | {
        f"projectors.0.{name}": value for name, value in golden.fill(mlp()).state_dict().items()
    }
    network, projectors, description = imported(
        tmp_path,
        {"ema": state, "model": {}, "opt": {}, "args": arguments, "steps": 1},
        family=family,
    )
    assert description["alignment"] == {
        "kind": "haste",
        "encoders": ["dinov2-vit-b"],
        "depth": 8,
        "weight": 0.5,
        "projector_width": 40,
        "attention_weight": 0.5,
        "stop_step": 250_000,
    }
    assert description["source"]["family"] == "haste"
    assert len(network) + len(projectors) + 1 == len(state)
    bare = imported(tmp_path, state, family="haste")[2]  # without arguments the option decides
    assert bare["source"]["family"] == "haste"


@pytest.mark.parametrize("layer", ["kernel 3", "mlp"])
def test_export_has_the_names_of_the_code_that_reads_it(tmp_path: Path, layer: str) -> None:
    state = official_state(4) | projector_state(golden.fill(LAYERS[layer]()))
    imported(tmp_path, state)
    family = export_checkpoint(tmp_path / "out.safetensors", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)["ema"]
    assert family == ("repa" if layer == "mlp" else "irepa")
    wanted = {
        name.replace(".projection_layer.", ".") if layer == "mlp" else name: value
        for name, value in state.items()
    }
    assert back.keys() == wanted.keys()
    assert all(torch.equal(back[name], value) for name, value in wanted.items())
    if layer != "mlp":
        with pytest.raises(
            UserError,
            match=(
                r"--family repa: .* has iREPA's projectors, which REPA's code does not "
                r"know; choose irepa"
            ),
        ):
            export_checkpoint(tmp_path / "out.safetensors", tmp_path / "b.pt", family="repa")
        assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"projectors.0.projection_layer.weight": torch.zeros(24, 40, 3, 3)},
            r"projectors\.0\.weight is \[24, 40, 3, 3\], not \[24, 48, 3, 3\]",
        ),
        (
            {"projectors.0.projection_layer.weight": torch.zeros(24, 48, 3, 1)},
            r"projectors\.0\.weight is \[24, 48, 3, 1\], not \[24, 48, 1, 1\]",
        ),
        (
            {"projectors.0.projection_layer.weight": torch.zeros(24)},
            "projector 0 is neither REPA's MLP nor iREPA's convolution",
        ),
        (
            {"projectors.0.other.weight": torch.zeros(24)},
            r"projectors\.0\.other\.weight \[24\] is not in the network",
        ),
        ({"projectors.x.weight": torch.zeros(24)}, "projector 1 is neither"),
        (
            {"projectors.0.projection_layer.bias": torch.full((24,), torch.nan)},
            r"projectors\.0\.projection_layer\.bias \[24\] holds NaN",
        ),
    ],
    ids=["width", "oblong", "vector", "extra", "index", "nan"],
)
def test_projectors_that_do_not_fit_are_named(tmp_path: Path, change: State, words: str) -> None:
    with pytest.raises(UserError, match=rf"^{tmp_path}/x\.pt: [^\n]*{words}[^\n]*$"):
        imported(
            tmp_path,
            official_state(4) | projector_state(golden.fill(LAYERS["kernel 3"]())) | change,
            "x.pt",
        )
    assert not (tmp_path / "out.safetensors").exists()


def test_by_command_and_in_tables(tmp_path: Path) -> None:
    torch.save(
        {
            "ema": official_state(4) | projector_state(golden.fill(LAYERS["kernel 1"]())),
            "args": argparse.Namespace(**IREPA),
        },
        tmp_path / "a.pt",
    )
    command = [
        "import-checkpoint",
        str(tmp_path / "a.pt"),
        "--output",
        str(tmp_path / "a.safetensors"),
        "--family",
        "irepa",
        "--heads",
        "4",
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert read_milestone(tmp_path / "a.safetensors")[2]["alignment"]["kind"] == "irepa"
    checkpoints = {
        "a": {"file": "a.pt", "family": "irepa", "model": "XL/2"},
        "b": {"file": "b.pt", "family": "haste", "model": "XL/2"},
    }
    config = parse_experiment({**read_yaml("config/mini.yaml"), "checkpoints": checkpoints}, "mini")
    assert [_names(config, name)["kind"] for name in checkpoints] == [
        "official iREPA",
        "official HASTE",
    ]
    assert config.samplers_of("a") == ["ode"]


def test_the_convolution_sees_the_grid_as_irepas() -> None:
    """Rows first: a projector that only looks one token to the right gives those tokens."""
    projector = ConvolutionalProjector(2, 2, 3)
    with torch.no_grad():
        projector.weight.zero_()
        projector.bias.zero_()
        projector.weight[:, :, 1, 2] = torch.eye(2)
    tokens = golden.draw(1, 1, 16, 2)
    shifted = F.pad(tokens.reshape(1, 4, 4, 2), (0, 0, 0, 1))[:, :, 1:].reshape(1, 16, 2)
    torch.testing.assert_close(projector(tokens), shifted)
