"""The order of the packages, and imports that are forbidden."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.fixtures import ROOT

PACKAGE = ROOT / "vrpo"
PACKAGES = [
    "config",
    "plan",
    "runtime",
    "tracking",
    "data",
    "models",
    "prepare",
    "processes",
    "alignment",
    "training",
    "sampling",
    "metrics",
    "report",
    "benchmark",
    "workflow",
    "cli",
]
BELOW_ALL = {"errors", "holders", "files", "seeds"}  # with the package itself


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import at run time; those under TYPE_CHECKING are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_packages_before(path: Path) -> None:
    package = package_of(path)
    if package in ("__init__", "__main__"):
        return
    for line, module in imports(path):
        parts = module.split(".")
        assert parts[0] != "benchmarks", f"{path}:{line}: vrpo imports nothing of benchmarks/"
        if parts[0] != "vrpo" or len(parts) < 2 or parts[1] == "__version__":
            continue
        imported = parts[1]
        if package in BELOW_ALL:
            assert imported in BELOW_ALL, (
                f"{path}:{line}: `{package}` is below all packages and imports `{imported}`"
            )
        elif imported not in BELOW_ALL:
            assert imported in PACKAGES, f"{path}:{line}: `{imported}` is no package"
            assert PACKAGES.index(imported) <= PACKAGES.index(package), (
                f"{path}:{line}: `{package}` imports `{imported}`, which comes after it"
            )


def test_processes_and_alignment_do_not_know_each_other() -> None:
    for path in modules():
        if package_of(path) == "alignment":
            assert not [
                module for _, module in imports(path) if module.startswith("vrpo.processes")
            ], path


@pytest.mark.parametrize("package", ["config", "report", "benchmark"])
def test_no_torch(package: str) -> None:
    for path in (PACKAGE / package).rglob("*.py"):
        assert not [
            module
            for _, module in imports(path)
            if module.split(".")[0] in ("torch", "torchvision", "timm")
        ], path


def test_importing_config_and_report_loads_no_torch() -> None:
    names = [
        ".".join(["vrpo", *path.relative_to(PACKAGE).with_suffix("").parts])
        for package in ("config", "report", "benchmark")
        for path in (PACKAGE / package).rglob("[a-z]*.py")
    ]
    loaded = loaded_by([*names, "vrpo.cli"])
    assert not loaded & {"torch", "timm", "diffusers"}


def test_the_catalogue_is_read_without_loading_what_draws() -> None:
    assert not loaded_by(["vrpo.report.catalogue"]) & {
        "matplotlib",
        "pandas",
        "numpy",
        "torch",
        "pydantic",
    }


def loaded_by(names: list[str]) -> set[str]:
    """Top-level packages that importing `names` loads, in a fresh process."""
    code = (
        f"import importlib, sys\nfor name in {names!r}: "
        f"importlib.import_module(name)\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return set(result.stdout.split())


def test_the_command_vrpo_is_the_package_called_as_a_module() -> None:
    scripts = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]["scripts"]
    module, _, name = scripts["vrpo"].partition(":")
    assert (
        getattr(importlib.import_module(module), name)
        is importlib.import_module("vrpo.__main__").main
    )
