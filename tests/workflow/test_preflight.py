"""The check before a long run: a table of findings, and one line at the end."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from vrpo.cli import app
from vrpo.config import merge_configs, parse_experiment
from vrpo.errors import UserError
from vrpo.models.timm_networks import create_network
from vrpo.workflow import preflight
from vrpo.workflow.preflight import (
    Finding,
    all_checks,
    findings,
    forbid_downloads,
    table,
    weight_checks,
)

from tests.fixtures import ROOT

MINI, IMAGENET = ROOT / "config/mini.yaml", ROOT / "config/imagenet256.yaml"


def found(config: Path, *settings: str) -> dict[str, Finding]:
    experiment = parse_experiment(merge_configs([config], settings), "x")
    return {row.what: row for row in findings(all_checks(experiment, fetch=False))}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without network, with empty caches, on a machine without SLURM."""
    for name in preflight.OFFLINE:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.chdir(tmp_path)


def test_the_miniature_needs_nothing(tmp_path: Path) -> None:
    rows = found(MINI, f"results={tmp_path}/results")
    assert list(rows) == ["Snakemake", "images", "disk", "file locks", "GPUs"]
    assert not any(row.is_missing for row in rows.values())
    assert rows["images"].found == "1,797 images of 10 classes"
    assert list(tmp_path.iterdir()) == [], "a check leaves nothing behind"


def test_a_missing_snakemake_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not found(MINI)["Snakemake"].is_missing

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(preflight.metadata, "version", missing)
    row = found(MINI)["Snakemake"]
    assert row.is_missing and "install it with `pip install '.[workflow]'`" in row.found
    monkeypatch.setattr(shutil, "which", lambda name: f"/elsewhere/bin/{name}")
    assert found(MINI)["Snakemake"].found == "/elsewhere/bin/snakemake"


def test_what_the_paper_needs_is_named_with_its_remedy(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for name in preflight.OFFLINE:
        environment.pop(name)  # the command itself does not go online
    words = [sys.executable, "-m", "vrpo", "check", "--config", str(IMAGENET)]
    result = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
    rows = [line for line in result.stdout.splitlines() if line.startswith("missing")]
    expected = (
        "images +data.root: data/imagenet/train does not exist; ",
        (
            "tokenizer stabilityai/sd-vae-ft-ema +tokenizer.weights: "
            "`stabilityai/sd-vae-ft-ema` could not be loaded .* set `tokenizer.weights` "
            "to that folder"
        ),
        "encoder dinov2-b +weights: .* set `weights` to its path",
        "Inception +evaluation.inception_weights: not given, and .* does not exist; fetch ",
    )
    for row in expected:
        assert any(re.match(f"missing +{row}", line) for line in rows), result.stdout
    assert "`--fetch` downloads weights" in result.stdout
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(
        "vrpo: error: data.root: data/imagenet/train does not exist; "
    )


def test_a_full_disk_is_missing_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    row = found(MINI)["disk"]
    assert (
        row.is_missing
        and row.found.startswith("results: ")
        and "0.0 GB free; free space or set it to another disk" in row.found
    )


def test_an_experiment_that_is_finished_needs_no_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "results/mini").mkdir(parents=True)
    with open(tmp_path / "results/mini/all", "wb") as file:
        file.truncate(10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    assert not found(MINI, f"results={tmp_path}/results")["disk"].is_missing


def test_results_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(preflight.tempfile, "TemporaryDirectory", refuse)
    row = found(MINI)["file locks"]
    assert row.is_missing and "cannot be written (Permission denied)" in row.found


def test_local_weights_are_loaded_and_damaged_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    encoder = f"encoders={{vit: {{weights: {path}}}}}"
    assert found(MINI, encoder)["encoder vit"].is_missing
    options = parse_experiment(merge_configs([MINI], [encoder]), "x").encoders["vit"]
    save_file(create_network(options, 0).state_dict(), path)
    row = found(MINI, encoder)["encoder vit"]
    assert not row.is_missing and row.found.startswith(f"{options.architecture}, SHA-256 "), row
    path.write_bytes(path.read_bytes()[:-9])
    assert found(MINI, encoder)["encoder vit"].is_missing


def test_checkpoints_must_be_there(tmp_path: Path) -> None:
    row = "checkpoints={theirs: {file: theirs.pt, family: sit, model: mini/2}}"
    assert found(MINI, row)["checkpoint theirs"].found.startswith(
        "checkpoints.theirs.file: theirs.pt does not exist; "
    )
    (tmp_path / "theirs.pt").touch()
    assert not found(MINI, row)["checkpoint theirs"].is_missing


def test_weights_trained_here_are_not_checked() -> None:
    assert not list(weight_checks(parse_experiment(merge_configs([MINI]), "x"), fetch=False))


def test_the_table_and_the_last_line() -> None:
    assert table([Finding("disk", "9 GB free"), Finding("file locks", "results: x; y", True)]) == (
        "ok       disk        9 GB free\nmissing  file locks  results: x; y"
    )
    result = CliRunner().invoke(
        app,
        [
            "check",
            "--config",
            str(MINI),
            "--set",
            "checkpoints={a: {file: a.pt, family: sit, model: mini/2}}",
        ],
    )
    assert isinstance(result.exception, UserError)
    assert (
        str(result.exception)
        == "checkpoints.a.file: a.pt does not exist; put the file there, or name its place"
    )
    assert "missing  checkpoint a" in result.output and "ok       images" in result.output
    whole = CliRunner().invoke(app, ["check", "--config", str(MINI)])
    assert whole.exit_code == 0 and "missing" not in whole.output


def test_without_fetch_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    checks = dict(weight_checks(parse_experiment(merge_configs([IMAGENET]), "x"), fetch=False))
    assert findings(iter([("Inception", checks["Inception"])]))[0].is_missing
    for name in preflight.OFFLINE:
        monkeypatch.delenv(name)
    forbid_downloads()
    assert all(preflight.os.environ[name] == "1" for name in preflight.OFFLINE)


def test_latents_that_were_encoded_elsewhere_are_looked_at(tmp_path: Path) -> None:
    config = parse_experiment(merge_configs([IMAGENET], []), "x")
    tokenizer = config.tokenizer.model_copy(update={"encoded": str(tmp_path)})
    config = config.model_copy(update={"tokenizer": tokenizer})
    check = dict(weight_checks(config, fetch=False))["encoded latents"]
    with pytest.raises(UserError, match=r"tokenizer.encoded: .*dataset.json is missing"):
        check()
    (tmp_path / "dataset.json").write_text('{"labels": [["00000/a.npy", 0], ["00000/b.npy", 1]]}')
    assert check() == "2 latents"
