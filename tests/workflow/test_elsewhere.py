"""The workflow started from another folder, without installation, and as a module."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.workflow import TINY, clone, command, environment, snakemake, whole

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]

OUTER = """
configfile: "CONFIG"

module vrpo:
    snakefile: "CHECKOUT/Snakefile"
    config: config

use rule * from vrpo as vrpo_*

rule all:
    default_target: True
    input: "results/tiny/images.json"
"""


def isolated() -> dict[str, str]:
    """An environment in which only the workflow can tell jobs where the package is.

    conda's environments are like this.
    """
    return {name: value for name, value in environment().items() if name != "PYTHONPATH"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone whose package tells that it is this one's."""
    folder = clone(tmp_path / "the clone")
    with open(folder / "vrpo/prepare/manifest.py", "a", encoding="utf-8") as file:
        file.write('\nlog_of_clone = print("from the clone")\n')
    return folder


def test_from_another_folder(checkout: Path, tmp_path: Path) -> None:
    words = command(
        "--cores",
        "1",
        "--directory",
        str(tmp_path / "else where"),
        "--",
        "manifest",
        checkout=checkout,
    )
    result = subprocess.run(words, cwd=tmp_path, env=isolated(), capture_output=True, text=True)
    assert result.returncode == 0, whole(result)[-4000:]
    assert "from the clone" in (tmp_path / "else where/results/tiny/logs/manifest.log").read_text()


def test_as_a_module(checkout: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "Snakefile").write_text(
        OUTER.replace("CONFIG", str(TINY)).replace("CHECKOUT", os.path.relpath(checkout, outer))
    )
    words = command("--cores", "1")
    words = [*words[:3], "--cores", "1", "--snakefile", str(outer / "Snakefile")]
    result = subprocess.run(words, cwd=outer, env=isolated(), capture_output=True, text=True)
    assert result.returncode == 0, whole(result)[-4000:]
    assert "from the clone" in (outer / "results/tiny/logs/manifest.log").read_text()


def test_a_dry_run_leaves_no_trace(tmp_path: Path) -> None:
    def files() -> list[str]:
        return sorted(
            str(path.relative_to(tmp_path))
            for path in tmp_path.rglob("*")
            if ".snakemake" not in path.parts
        )

    for arguments in (["-n"], ["--lint"], ["--dag"], ["--summary"]):
        assert "Traceback" not in whole(snakemake(tmp_path, *arguments, "--cores", "1"))
        assert files() == [], arguments


def test_a_dry_run_beside_a_running_workflow_changes_nothing_and_says_what_would_change(
    tmp_path: Path,
) -> None:
    target = "results/tiny/config/tokenizer.yaml"
    run = "results/tiny/runs/sit-vrpo/seed0/config.yaml"
    result = snakemake(tmp_path, "--cores", "1", "--", target, run)
    assert result.returncode == 0, whole(result)[-4000:]
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (tmp_path / "results").rglob("*")
        if path.is_file()
    }
    assert any(path.name == "config.yaml" for path in before)
    dry = whole(
        snakemake(tmp_path, "-n", "--config", "training={learning_rate: 0.5}", "--", target, run)
    )
    assert f"output: {run}" in dry and f"output: {target}" not in dry
    assert {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (tmp_path / "results").rglob("*")
        if path.is_file()
    } == before


def test_a_config_changed_by_hand_is_written_again(tmp_path: Path) -> None:
    run = tmp_path / "results/tiny/runs/sit-vrpo/seed0/config.yaml"
    assert snakemake(tmp_path, "--cores", "1", "--", str(run.relative_to(tmp_path))).returncode == 0
    planned = run.read_text()
    run.write_text(planned.replace("learning_rate: 0.0001", "learning_rate: 0.5"))
    assert run.read_text() != planned
    result = snakemake(tmp_path, "--cores", "1", "--", str(run.relative_to(tmp_path)))
    assert result.returncode == 0, whole(result)[-4000:]
    assert run.read_text() == planned


def test_weights_that_cannot_be_had_end_the_workflow_before_its_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = snakemake(
        tmp_path,
        "--cores",
        "1",
        "--config",
        "tokenizer={weights: nobody/no-such-vae}",
        "--",
        "prepare",
    )
    assert result.returncode != 0
    lines = [line for line in whole(result).splitlines() if line.startswith("vrpo: error:")]
    assert (
        len(lines) == 1
        and "tokenizer.weights: `nobody/no-such-vae` could not be loaded" in lines[0]
    )
    assert "Traceback" not in whole(result)
    assert not (tmp_path / "results/tiny/images/shard-00000-of-00001.h5").exists()
