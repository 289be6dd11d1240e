"""Running the real workflow in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from vrpo.reporting.figures import FIGURES
from vrpo.reporting.tables import TABLES

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/workflow/tiny.yaml"
DRAWN = [*FIGURES, *TABLES, "report"]


def command(*arguments: str, config: Path | tuple[Path, ...] = TINY, checkout: Path = ROOT) -> list[str]:
    """A snakemake command line that uses a checkout, this one if no other is named."""
    configs = (config,) if isinstance(config, Path) else config
    profile = [] if "--workflow-profile" in arguments else ["--workflow-profile", str(checkout / "profiles/default")]
    return [sys.executable, "-m", "snakemake", "--snakefile", str(checkout / "Snakefile"), "--configfile", *map(str, configs), *profile, *arguments]


def clone(folder: Path) -> Path:
    """What a clone of the repository has of the product, in `folder`."""
    folder.mkdir(parents=True)
    for name in ("Snakefile", "workflow", "profiles", "envs", "vrpo", "config"):
        place = ROOT / name
        shutil.copytree(place, folder / name) if place.is_dir() else shutil.copy(place, folder)
    return folder


def environment() -> dict[str, str]:
    """One thread for each job, so that numbers do not depend on the machine's cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def snakemake(folder: Path, *arguments: str, config: Path | tuple[Path, ...] = TINY, checkout: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run snakemake with `folder` as working directory, where also its results lie."""
    folder.mkdir(parents=True, exist_ok=True)
    words = command(*arguments, config=config, checkout=checkout)
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=900)


def whole(result: subprocess.CompletedProcess[str]) -> str:
    """Both streams of a finished run."""
    return result.stdout + result.stderr
