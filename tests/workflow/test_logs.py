"""Logs of earlier tries are kept, although Snakemake deletes a job's log when it starts again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures import ROOT


def run(folder: Path, code: str, **changes: str) -> None:
    """Do as Snakemake for each try: delete the log, run the command into it."""
    log = folder / "step8.log"
    log.unlink(missing_ok=True)
    code = f"from vrpo.workflow.logs import keep_log, release_log; keep_log(); {code}"
    environment = {**os.environ, "VRPO_KEEP": "1", "PYTHONPATH": str(ROOT)} | changes
    with open(log, "w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, env=environment, check=False)


def logs(folder: Path) -> dict[str, str]:
    """Texts of the logs, by name."""
    files = [path for path in folder.iterdir() if path.suffix != ".done"]
    return {path.name: path.read_text().strip() for path in files}


def test_each_failed_try_keeps_its_log(tmp_path: Path) -> None:
    run(tmp_path, "print('one'); exit(1)")
    run(tmp_path, "print('two'); exit(1)")
    run(tmp_path, "keep_log(); print('three'); release_log()")
    assert logs(tmp_path) == {"step8.log": "three", "step8.log.1": "one", "step8.log.2": "two"}


def test_a_job_that_is_done_anew_has_one_log(tmp_path: Path) -> None:
    run(tmp_path, "print('one'); release_log()")
    run(tmp_path, "print('two'); release_log()")
    assert logs(tmp_path) == {"step8.log": "two"}


def test_the_log_of_the_job_that_made_a_restored_result_is_kept(tmp_path: Path) -> None:
    """Of a job that was ended between its success and Snakemake's notice of it."""
    run(tmp_path, "print('one'); exit(1)")
    run(tmp_path, "print('made'); release_log()")
    run(tmp_path, "print('restored'); release_log(restored=True)")
    run(tmp_path, "print('again'); release_log(restored=True)")
    assert logs(tmp_path) == {"step8.log": "again", "step8.log.1": "one", "step8.log.2": "made"}


def test_a_log_of_a_try_that_still_runs_is_kept_whole(tmp_path: Path) -> None:
    running = "import time; print('first', flush=True); time.sleep(2); print('last')"
    log = tmp_path / "step8.log"
    environment = {**os.environ, "VRPO_KEEP": "1", "PYTHONPATH": str(ROOT)}
    code = f"from vrpo.workflow.logs import keep_log; keep_log(); {running}"
    with open(log, "w") as file:
        first = subprocess.Popen([sys.executable, "-c", code], stdout=file, env=environment)
    while "first" not in log.read_text():
        assert first.poll() is None
    run(tmp_path, "print('locked'); exit(2)")
    first.wait()
    assert (tmp_path / "step8.log.1").read_text().split() == ["first", "last"]
    assert log.read_text().strip() == "locked"


@pytest.mark.parametrize("changes", [{"VRPO_KEEP": ""}])
def test_outside_a_workflow_nothing_is_kept(changes: dict[str, str], tmp_path: Path) -> None:
    run(tmp_path, "print('one'); exit(1)", **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["step8.log"]
