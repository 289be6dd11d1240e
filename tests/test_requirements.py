"""The floors of pyproject.toml, the pins of requirements.txt and the environments agree."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.fixtures import ROOT
from tests.fixtures.environments import ENVS, specifiers

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


@pytest.mark.parametrize("name", ["report", "snakemake", "vrpo"])
def test_environments_have_the_same_floors(name: str) -> None:
    found = requirements(name)
    shared = found.keys() & FLOORS.keys()
    assert len(shared) >= 6
    assert {package: found[package] for package in shared} == {
        package: FLOORS[package] for package in shared
    }


def test_jobs_find_every_dependency_in_an_environment() -> None:
    needed = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert needed == (requirements("report").keys() | requirements("vrpo").keys()) - {"pip"}


def requirements(name: str) -> dict[str, SpecifierSet]:
    """{package: versions} of an env file."""
    packages = specifiers(ENVS / f"{name}.yaml")
    del packages["python"]
    parsed = [Requirement(package + versions) for package, versions in packages.items()]
    return {requirement.name: requirement.specifier for requirement in parsed}
