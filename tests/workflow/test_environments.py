"""Environments of `--use-conda`: each env file is enough for every command of its rules.

conda itself is not needed: the packages come from PyPI, under the names that they have there.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vrpo.report.catalogue import CATALOGUE

from tests.fixtures import ROOT

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]

PYPI_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
COMMANDS = re.compile(r'"vrpo(?: --gpus \S+)? ([a-z-]+)')
LISTED = """
import importlib, pkgutil, sys
import vrpo
modules = [module.name for module in pkgutil.walk_packages(vrpo.__path__, "vrpo.")]
for name in modules:
    if name.startswith(tuple(sys.argv[1:])):
        importlib.import_module(name)
        print(name)
"""


def packages(environment: str) -> list[str]:
    """The packages of an env file, as PyPI calls them."""
    listed = yaml.safe_load((ROOT / f"envs/{environment}.yaml").read_text())["dependencies"]
    conda = [
        package
        for package in listed
        if isinstance(package, str) and package.split()[0] not in ("python", "pip")
    ]
    pip = [package for section in listed if isinstance(section, dict) for package in section["pip"]]
    names = [re.match(r"[\w.-]+", package)[0] for package in conda]
    return [*(PYPI_NAMES.get(name, name) for name in names), *pip]


def pins() -> str:
    """The pinned versions, without their hashes."""
    return "\n".join(
        re.findall(r"^[\w.-]+==[^\\\n]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    )


def make(environment: str, folder: Path) -> Path:
    """Python of a new environment that holds exactly what the env file names."""
    uv = shutil.which(
        "uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if uv is None:
        pytest.skip("uv makes the environment, and is not installed")
    (folder / "pins.txt").write_text(pins())
    subprocess.run(
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder / "env")], check=True
    )
    python = folder / "env/bin/python"
    install = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        str(python),
        "--constraint",
        str(folder / "pins.txt"),
        *packages(environment),
    ]
    result = subprocess.run(install, capture_output=True, text=True)
    if result.returncode and re.search(
        r"dns error|connect|timed out|tunnel", result.stderr, re.IGNORECASE
    ):
        pytest.skip(f"no package index can be reached: {result.stderr[-200:]}")
    assert result.returncode == 0, result.stderr
    return python


def commands_of(environment: str) -> set[str]:
    """Commands of the rules that name the environment."""
    variable = {"report": "REPORT_ENV", "vrpo": "TORCH_ENV"}[environment]
    rules = [
        rule
        for file in (ROOT / "workflow/rules").glob("*.smk")
        for rule in re.split(r"(?m)^\s*rule\b", file.read_text())
    ]
    named = [match[1] for rule in rules if variable in rule and (match := COMMANDS.search(rule))]
    drawn = [
        entry.kind
        for entry in CATALOGUE
        if any("{params.kind}" in rule and variable in rule for rule in rules)
    ]
    return {*named, *drawn}


def imported(python: Path, *prefixes: str) -> list[str]:
    """Modules below `prefixes`, imported one after the other in the environment."""
    result = subprocess.run(
        [python, "-c", LISTED, *prefixes],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.split()


def test_the_report_environment_has_what_its_commands_import(tmp_path: Path) -> None:
    assert commands_of("report") == {
        "collect",
        "figure",
        "table",
        "report",
        "benchmark",
        "benchmark-snapshot",
    }
    python = make("report", tmp_path)
    assert "vrpo.report.collect" in imported(python, "vrpo.report", "vrpo.config", "vrpo.cli")
    torch = subprocess.run([python, "-c", "import torch"], capture_output=True)
    assert torch.returncode, (
        "the report needs no torch; with it, the environment would prove nothing"
    )


def test_the_torch_environment_has_what_its_commands_import(tmp_path: Path) -> None:
    assert {
        "images",
        "encode-latents",
        "train",
        "sample",
        "evaluate",
        "representation",
        "import-checkpoint",
    } <= commands_of("vrpo")
    python = make("vrpo", tmp_path)
    stages = (
        "vrpo.runtime.launch",
        "vrpo.cli",
        "vrpo.config",
        "vrpo.data",
        "vrpo.models",
        "vrpo.processes",
        "vrpo.alignment",
        "vrpo.training",
        "vrpo.prepare",
    )
    assert {"vrpo.training.run", "vrpo.sampling.generate", "vrpo.metrics.evaluate"} <= set(
        imported(python, *stages, "vrpo.sampling", "vrpo.metrics")
    )
