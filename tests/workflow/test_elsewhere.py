"""The workflow started from another folder, without installation, and as a module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vrpo.workflow.environment import ALONE

from tests.fixtures import ROOT
from tests.fixtures.workflow import TINY, clone, command, environment, snakemake, whole

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]

OUTER = """
configfile: "outer.yaml"

module vrpo:
    snakefile: SNAKEFILE
    config: config["inner"]

use rule * from vrpo as vrpo_*

onstart:
    vrpo.onstart()

onsuccess:
    vrpo.onsuccess()
"""
WITHOUT = """
import sys
sys.modules["NAME"] = None  # as if it were not installed
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


def outer(folder: Path, snakefile: str) -> list[str]:
    """A workflow in `folder` that uses this one as a module; its command line."""
    (folder / "workflow").mkdir(parents=True)
    (folder / "workflow/Snakefile").write_text(OUTER.replace("SNAKEFILE", snakefile))
    inner = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    (folder / "outer.yaml").write_text(yaml.safe_dump({"own": 1, "inner": inner}))
    return [sys.executable, "-m", "snakemake", "--cores", "1"]


def run(words: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env=isolated() | variables, capture_output=True, text=True
    )


def test_as_a_module(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "outer"
    place = os.path.relpath(checkout, folder / "workflow")
    words = outer(folder, f'"{place}/Snakefile"')
    result = run([*words, "--forcerun", "vrpo_images", "--", "vrpo_manifest"], folder)
    assert result.returncode == 0, whole(result)[-4000:]
    results = folder / "results/tiny"
    assert "from the clone" in (results / "logs/manifest.log").read_text()
    assert (results / ".plan.yaml").exists(), "its own start"
    assert not list(results.rglob(".*.kept")), "its own end"


def test_rules_of_another_host_need_the_installed_package(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "outer"
    words = outer(folder, 'github("someone/vrpo", path="Snakefile", tag="v1")')
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(checkout)]
    for command_ in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"], ["tag", "v1"]):
        subprocess.run([*git, *command_], check=True)
    cached = "snakemake/snakemake/source-cache/snakemake-git-cache/github.com/someone/vrpo"
    subprocess.run([*git, "clone", "-q", "--bare", ".", str(tmp_path / cached)], check=True)
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    installed = {"PYTHONPATH": str(ROOT)}
    planned = run([*words, "--dry-run", "--", "vrpo_fid"], folder, **installed, **cache)
    assert planned.returncode == 0, whole(planned)[-4000:]
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.replace("NAME", "vrpo"))
    refused = run([*words, "--dry-run"], folder, PYTHONPATH=str(tmp_path), **cache)
    assert refused.returncode and "Traceback" not in whole(refused)
    assert f"vrpo: error: vrpo: not installed in {sys.prefix}; `pip install`" in refused.stderr


def test_a_package_that_planning_needs_is_named(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.replace("NAME", "h5py"))
    result = run(command("--dry-run"), tmp_path, PYTHONPATH=str(tmp_path))
    assert f"vrpo: error: h5py: not installed in {sys.prefix}; use " in result.stderr
    assert "Traceback" not in whole(result)


def test_a_modules_prefix_is_refused(tmp_path: Path) -> None:
    words = outer(tmp_path, f'"{ROOT}/Snakefile"\n    prefix: "deep"')
    result = run([*words, "--dry-run"], tmp_path)
    assert result.returncode and "vrpo: error: module vrpo: `prefix`" in result.stderr


def test_the_installed_package_without_its_neighbours() -> None:
    code = "import vrpo.errors as e, importlib.util as i; print(e.__file__, i.find_spec('tests'))"
    words = [sys.executable, "-S", "-c", code]
    result = subprocess.run(
        words, cwd="/", env={"PYTHONPATH": str(ALONE)}, capture_output=True, text=True
    )
    assert result.stdout.split() == [str(ROOT / "vrpo/errors.py"), "None"], result.stderr


def test_a_dry_run_leaves_no_trace(tmp_path: Path) -> None:
    def files() -> list[str]:
        return sorted(
            str(path.relative_to(tmp_path))
            for path in tmp_path.rglob("*")
            if ".snakemake" not in path.parts
        )

    for arguments in (
        ["-n", "--until", "fit_critic"],
        ["--lint"],
        ["--dag"],
        ["--rulegraph"],
        ["--summary"],
        ["--unlock"],
    ):
        result = snakemake(tmp_path, *arguments, "--cores", "1")
        assert result.returncode == 0, whole(result)[-4000:]
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
        "tokenizer={weights: nobody/no-such-vae, downsampling: 4}",
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
