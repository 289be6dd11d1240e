"""Results that were copied, moved or touched are found again: what Snakemake asks for is restored, not computed."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running import clone, snakemake, whole
from test_pipeline import final_bytes, planned

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]

COMPUTED = {"manifest", "resolved_config", "all", "prepare", "milestones"}  # jobs of seconds, which are done again
SCORED = "results/tiny/metrics/sit-vrpo/seed0/step0000008/ode.json"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the results of all stages up to the scores of one run's first milestone; its training has gone on since."""
    folder = clone(tmp_path_factory.mktemp("scored") / "first")
    result = snakemake(folder, "--cores", "2", "--", SCORED, SCORED.replace("0000008", "0000016"), checkout=folder)
    assert result.returncode == 0, whole(result)[-8000:]
    states = sorted((folder / "results/tiny/runs/sit-vrpo/seed0/state").glob("*/step*.pt"))
    assert "step0000008.pt" not in [path.name for path in states], "the first milestone's state is gone"
    return folder


def copied(scored: Path, folder: Path) -> Path:
    """As `cp -r`: new times for all files."""
    return shutil.copytree(scored, folder, copy_function=shutil.copyfile)


def copied_results(scored: Path, folder: Path) -> Path:
    """As `rsync` without -t, into a clone that has never run."""
    shutil.copytree(scored / "results", clone(folder) / "results", copy_function=shutil.copyfile)
    return folder


def moved(scored: Path, folder: Path) -> Path:
    """As `mv` of a whole checkout."""
    copy = shutil.copytree(scored, folder.with_name("before"))
    return copy.rename(folder)


def cloned_beside(scored: Path, folder: Path) -> Path:
    """As a fresh clone to which finished results are moved: their times are older than the clone's, and Snakemake's records are missing."""
    shutil.copytree(scored / "results", folder.with_name("before"))
    folder.with_name("before").rename(clone(folder) / "results")
    return folder


def skewed(scored: Path, folder: Path) -> Path:
    """As written by machines whose clocks differ by hours."""
    shutil.copytree(scored, folder)
    for number, path in enumerate(sorted((folder / "results").rglob("*"))):
        when = time.time() + (3600 if number % 3 else -7200) - 60 * number
        os.utime(path, (when, when))
    return folder


@pytest.mark.parametrize("move", [copied, copied_results, moved, cloned_beside, skewed])
def test_nothing_is_computed_again(move: Callable[[Path, Path], Path], scored: Path, tmp_path: Path) -> None:
    folder = move(scored, tmp_path / "second")
    before = final_bytes(scored / "results/tiny")
    shutil.rmtree(folder / "results/tiny/logs")
    result = snakemake(folder, "--cores", "2", "--", SCORED, checkout=folder)
    assert result.returncode == 0, whole(result)[-8000:]
    assert final_bytes(folder / "results/tiny") == before
    logs = [path for path in (folder / "results/tiny/logs").rglob("*.log") if path.name != "manifest.log"]
    assert all("restored" in path.read_text() for path in logs), [(path, path.read_text()) for path in logs]
    assert len(logs) >= len(planned(whole(result)) - COMPUTED - {"evaluate"})
    assert not list(folder.rglob(".*.kept")), "second names are gone when the workflow ends"
    assert "Nothing to be done" in whole(snakemake(folder, "--cores", "2", "--", SCORED, checkout=folder))
