"""The environment in which a workflow's jobs and checks run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from vrpo.errors import PREFIX, UserError

CHECKOUT = Path(__file__).resolve().parents[2]
JOBS_PATH = "VRPO_PATH"
"""Environment variable with the PYTHONPATH of jobs: conda environments lose the other."""
COMMANDS = CHECKOUT / "vrpo/workflow/job"
ALONE = CHECKOUT / "vrpo/workflow/alone"


def jobs_path(root: Path) -> str:
    """PYTHONPATH of jobs: the checkout of the Snakefile, or the installed package by itself."""
    package = root if (root / "vrpo").is_dir() else ALONE
    return os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))


def use_environment_of(python: str, scripts: Path = COMMANDS) -> None:
    """Let child processes find `scripts` and `python`'s environment, activated or not.

    Raises:
        UserError: a script is not executable and cannot be made so.
    """
    for script in scripts.iterdir():
        if not os.access(script, os.X_OK):  # a copy or an archive lost it
            _make_executable(script)
    path = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([str(scripts), str(Path(python).parent), path])


def _make_executable(script: Path) -> None:
    try:
        script.chmod(script.stat().st_mode | 0o111)
    except OSError as error:
        raise UserError(
            f"{script}: is not executable ({error.strerror}); run `chmod +x` on it"
        ) from None


def run_check(*arguments: str) -> None:
    """Run `python -m vrpo ARGUMENTS`, which is quiet where all is well.

    Raises:
        UserError: it is not; the message is that of the command.
    """
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run(
        [sys.executable, "-m", "vrpo", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        _, _, said = result.stderr.rpartition(PREFIX)
        ended = f"{' '.join(arguments)}: ended with status {result.returncode}; run `vrpo` with it"
        raise UserError(said.strip() if PREFIX in result.stderr else ended)
