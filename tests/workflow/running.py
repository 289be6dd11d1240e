"""Running the real workflow in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

from vrpo.reporting.figures import FIGURES
from vrpo.reporting.tables import TABLES

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/workflow/tiny.yaml"
DRAWN = [*FIGURES, *TABLES, "report"]


def command(*arguments: str, config: Path | tuple[Path, ...] = TINY) -> list[str]:
    """A snakemake command line that uses this checkout."""
    configs = (config,) if isinstance(config, Path) else config
    profile = [] if "--workflow-profile" in arguments else ["--workflow-profile", str(ROOT / "profiles/default")]
    return [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", *map(str, configs), *profile, *arguments]


def environment() -> dict[str, str]:
    """One thread for each job, so that numbers do not depend on the machine's cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def snakemake(folder: Path, *arguments: str, config: Path | tuple[Path, ...] = TINY) -> subprocess.CompletedProcess[str]:
    """Run snakemake with `folder` as working directory, where also its results lie."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(command(*arguments, config=config), cwd=folder, env=environment(), capture_output=True, text=True, timeout=900)


def whole(result: subprocess.CompletedProcess[str]) -> str:
    """Both streams of a finished run."""
    return result.stdout + result.stderr
