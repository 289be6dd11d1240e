"""The environment in which a workflow's jobs and checks run."""

import os
import subprocess
import sys
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


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", r"^check-compiler: ended with status -9; run `vrpo` with it$"),
        ("Killed\n", r"^check-compiler: ended with status -9; "),
        ("a warning\nvrpo: error: x: is wrong;\nfix it\n", "^x: is wrong;\nfix it$"),
    ],
)
def test_a_check_that_was_killed_has_a_line(
    monkeypatch: pytest.MonkeyPatch, said: str, message: str
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, -9, "", said)

    monkeypatch.setattr(environment.subprocess, "run", run)
    with pytest.raises(UserError, match=message):
        run_check("check-compiler")


def test_jobs_find_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    use_environment_of("/somewhere/bin/python", tmp_path)
    assert os.environ["PATH"] == f"{tmp_path}:/somewhere/bin:/usr/bin"


def test_a_script_that_a_copy_made_unusable_is_repaired(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "vrpo"
    script.write_text("#!/bin/sh\necho it runs\n")
    monkeypatch.setenv("PATH", os.environ["PATH"])
    use_environment_of(sys.executable, tmp_path)
    assert subprocess.run(["vrpo"], capture_output=True, text=True).stdout == "it runs\n"
    script.chmod(0o644)

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    with pytest.raises(UserError, match=r"vrpo: is not executable .*; run `chmod \+x` on it"):
        use_environment_of(sys.executable, tmp_path)
