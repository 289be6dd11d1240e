"""Checkpoints of the official code as rows of an experiment: config, commands, collected names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from vrpo.cli import app
from vrpo.config import ExperimentConfig, parse_experiment
from vrpo.config.reading import read_yaml
from vrpo.config.resolved import PAPER_SIZES
from vrpo.errors import UserError
from vrpo.models.checkpoints import load_milestone
from vrpo.models.embeddings import position_embedding
from vrpo.models.official import import_checkpoint
from vrpo.models.transformer import build_transformer
from vrpo.plan.jobs import evaluations, shown
from vrpo.report.collect import _names
from vrpo.report.cost import costs
from vrpo.report.results import last_milestone, main_sampler, read_metrics

from tests.fixtures import golden


def experiment(**checkpoints: dict[str, Any]) -> ExperimentConfig:
    return parse_experiment({**read_yaml("config/mini.yaml"), "checkpoints": checkpoints}, "mini")


def official(path: Path) -> Path:
    state = golden.fill(build_transformer(golden.MODEL, golden.LATENT, 8)).state_dict()
    torch.save({"ema": state | {"pos_embed": position_embedding(48, 4)}}, path)
    return path


def test_a_checkpoint_is_a_row_beside_the_runs() -> None:
    config = experiment(
        theirs={"file": "a.pt", "family": "repa", "model": "XL/2", "step": 4_000_000}
    )
    assert config.samplers_of("theirs") == ["ode"]
    assert [row for row in evaluations(config) if row[0] == "theirs"] == [
        ("theirs", 0, 4_000_000, "ode")
    ]
    assert "theirs" not in {run for run, *_ in shown(config)}
    assert (config.model_of("theirs").name, config.model_of("theirs").heads) == ("SiT-XL/2", 16)
    names = {
        "run": "theirs",
        "model": "SiT-XL/2",
        "process": "interpolant",
        "alignment": "theirs",
        "kind": "official REPA",
        "name": "official REPA",
    }
    assert _names(config, "theirs") == names


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("sit-none", {}, r"checkpoints.sit-none: a run has this name"),
        ("a", {"model": "XXL/2"}, r"`XXL` is not in `sizes`"),
        ("a", {"family": "edm"}, r"family"),
        ("a b", {}, r"checkpoints.a b: names consist of"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        experiment(**{name: {"file": "a.pt", "family": "dit", "model": "XL/2", **changes}})


def test_import_and_export_by_command(tmp_path: Path) -> None:
    source, milestone, back = (
        official(tmp_path / "theirs.pt"),
        tmp_path / "a.safetensors",
        tmp_path / "b.pt",
    )
    names = [
        "--run",
        "theirs",
        "--step",
        "7",
        "--seed",
        "3",
        "--heads",
        "4",
        "--model",
        "DiT-tiny/2",
    ]
    result = CliRunner().invoke(
        app,
        ["import-checkpoint", str(source), "--output", str(milestone), "--family", "dit", *names],
    )
    assert result.exit_code == 0, result.output
    _, description = load_milestone(milestone)
    assert [description[name] for name in ("run", "step", "seed")] == ["theirs", 7, 3]
    assert description["model"]["name"] == "DiT-tiny/2"
    result = CliRunner().invoke(app, ["export-checkpoint", str(milestone), "--output", str(back)])
    assert result.exit_code == 0, result.output
    first, second = (torch.load(path, weights_only=True)["ema"] for path in (source, back))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_wrong_family_or_model_is_refused(tmp_path: Path) -> None:
    source = official(tmp_path / "DiT.pt")
    result = CliRunner().invoke(
        app,
        [
            "import-checkpoint",
            str(source),
            "--output",
            str(tmp_path / "a.safetensors"),
            "--family",
            "edm",
        ],
    )
    assert isinstance(result.exception, UserError)
    assert "`edm` is none of dit, sit, repa" in str(result.exception)


def test_another_size_than_declared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PAPER_SIZES, "T", golden.MODEL)
    with pytest.raises(UserError, match="is a DiT-T/2, not a DiT-XL/2"):
        import_checkpoint(
            official(tmp_path / "DiT.pt"), tmp_path / "a.safetensors", model="DiT-XL/2"
        )


def test_curves_and_pairs_leave_official_weights_out(tmp_path: Path) -> None:
    rows = [
        "run,model,alignment,kind,seed,step,sampler,fid",
        "a,M,repa,repa,0,10,ode,5.0",
        "theirs,M,theirs,official REPA,0,4000000,ode,2.0",
    ]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    metrics = read_metrics(tmp_path)
    assert metrics["label"].tolist() == ["REPA", "official REPA"]
    assert main_sampler(metrics)["run"].tolist() == ["a"]
    assert last_milestone(metrics)["run"].tolist() == ["a", "theirs"]


def test_the_cost_counts_checkpoints_attention_and_convolutions() -> None:
    plain = {row.what: row for row in costs(experiment())}
    config = experiment(theirs={"file": "a.pt", "family": "dit", "model": "mini/2"})
    assert {row.what for row in costs(config)} >= {
        f"sampling, {sum(1 for _ in evaluations(config))} sets"
    }
    content = read_yaml("config/mini.yaml")
    content["encoders"]["vit"]["attention"] = [2, 4]
    content["alignments"]["irepa"] = {"kind": "irepa", "encoders": ["vit"], "depth": 2}
    content["runs"] = {"sit-irepa": {"model": "mini/2", "process": "sit", "alignment": "irepa"}}
    more = {row.what: row for row in costs(parse_experiment(content, "mini"))}
    assert more["features of vit"].bytes == 5 * plain["features of vit"].bytes
    assert more["training SiT-mini/2, 1 runs"].flops > 0
