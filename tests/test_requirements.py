"""The floors of pyproject.toml, the pins of requirements.txt and the environments agree."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.fixtures import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
(PINNED,) = re.findall(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
ASKED = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *(EXTRAS[name] for name in PINNED.split()))
    for line in group
]
DOCS = [Requirement(line) for line in PYPROJECT["dependency-groups"]["docs"]]
FLOORS = {requirement.name: requirement.specifier for requirement in ASKED}
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


@pytest.mark.parametrize(
    ("file", "asked"), [("requirements.txt", ASKED), ("docs/requirements.txt", DOCS)]
)
def test_pins_fit_the_floors(file: str, asked: list[Requirement]) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", text, re.MULTILINE))
    assert asked and not [
        str(package) for package in asked if pins.get(package.name, "0") not in package.specifier
    ]


def test_slurm_plugins_that_start_a_job_once_for_each_gpu_are_refused() -> None:
    floor = FLOORS["snakemake-executor-plugin-slurm"]
    assert (
        not list(floor.filter(["2.0.0", "2.6.2", "2.7.0"]))
        and "2.7.1" in floor
        and "2.8.0" in floor
    )


@pytest.mark.parametrize("name", ["report.yaml", "vrpo.yaml"])
def test_environments_have_the_same_floors(name: str) -> None:
    text = (ROOT / "envs" / name).read_text(encoding="utf-8")
    found = {
        CONDA_NAMES.get(package, package): SpecifierSet(floor)
        for package, floor in re.findall(r"- ([a-z0-9-]+) ?([>=]=\S+)$", text, re.MULTILINE)
    }
    shared = found.keys() & FLOORS.keys()
    assert (
        len(shared) > 8
        and {
            package: (found[package], FLOORS[package])
            for package in shared
            if found[package] != FLOORS[package]
        }
        == {}
    )
