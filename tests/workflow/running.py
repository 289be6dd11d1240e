"""Running the real workflow in a folder of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

from vrpo.report.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/workflow/tiny.yaml"
DRAWN = [*(entry.name for entry in CATALOGUE), "report"]


def command(
    *arguments: str, config: Path | tuple[Path, ...] = TINY, checkout: Path = ROOT
) -> list[str]:
    """A snakemake command line that uses a checkout, this one if no other is named."""
    configs = (config,) if isinstance(config, Path) else config
    profile = (
        []
        if "--workflow-profile" in arguments
        else ["--workflow-profile", str(checkout / "profiles/default")]
    )
    return [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(checkout / "Snakefile"),
        "--configfile",
        *map(str, configs),
        *profile,
        *arguments,
    ]


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


def snakemake(
    folder: Path, *arguments: str, config: Path | tuple[Path, ...] = TINY, checkout: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run snakemake with `folder` as working directory, where also its results lie.

    With this checkout it runs in a fork of this process: importing snakemake takes longer than planning.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = command(*arguments, config=config, checkout=checkout)
    if checkout != ROOT:  # whose package is another one than this process has imported
        return subprocess.run(
            words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=900
        )
    import snakemake.cli  # noqa: F401

    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            _become_snakemake(folder, words[2:], output.fileno(), errors.fileno())
        _, status = os.waitpid(child, 0)
        texts = [(file.seek(0), file.read().decode())[1] for file in (output, errors)]
    return subprocess.CompletedProcess(words, os.waitstatus_to_exitcode(status), *texts)


def plan(
    folder: Path, *arguments: str, config: Path | tuple[Path, ...] = TINY
) -> subprocess.CompletedProcess[str]:
    """The same with `--dry-run`."""
    return snakemake(folder, "--dry-run", *arguments, config=config)


def _become_snakemake(folder: Path, arguments: list[str], output: int, errors: int) -> NoReturn:
    """Do in a forked child what `python -m snakemake` does, and exit."""
    from snakemake.cli import main

    status: object = 1
    try:
        os.chdir(folder)
        os.environ.update(environment())
        os.dup2(output, 1)
        os.dup2(errors, 2)
        sys.stdout, sys.stderr = (
            os.fdopen(file, "w", buffering=1, errors="backslashreplace", closefd=False)
            for file in (1, 2)
        )
        sys.argv = arguments
        main()
    except SystemExit as leaving:
        status = leaving.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


def whole(result: subprocess.CompletedProcess[str]) -> str:
    """Both streams of a finished run."""
    return result.stdout + result.stderr
