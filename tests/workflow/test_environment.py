"""The environment in which a workflow's jobs and checks run."""

import os
import subprocess
from pathlib import Path

import pytest

from vrpo.errors import UserError
from vrpo.workflow import environment
from vrpo.workflow.environment import run_check, use_environment_of

from tests.fixtures import ROOT


def test_a_check_of_the_machine_says_its_line() -> None:
    run_check("--help")
    with pytest.raises(UserError, match=r"^nowhere\.h5: no such file"):
        run_check("verify", "nowhere.h5")


def test_a_check_of_the_machine_finds_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed, as the workflow itself does."""
    seen = {}

    def run(
        command: list[str], env: dict[str, str], **_: object
    ) -> subprocess.CompletedProcess[str]:
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setenv("PYTHONPATH", "/more")
    run_check("check-compiler")
    assert seen["PYTHONPATH"] == f"{ROOT}{os.pathsep}/more"


def test_jobs_find_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    use_environment_of("/somewhere/bin/python", Path("/scripts"))
    assert os.environ["PATH"] == "/scripts:/somewhere/bin:/usr/bin"
