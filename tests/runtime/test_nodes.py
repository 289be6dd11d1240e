"""One stage on several nodes: what starts it, and what it says when it fails."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vrpo.errors import INTERRUPTED, UserError
from vrpo.runtime import nodes
from vrpo.runtime.launch import run_ranks
from vrpo.runtime.nodes import pass_on, run_on_nodes
from vrpo.runtime.queue import MAY_REQUEUE

from tests.fixtures import ROOT

STARTER = """[ -z "$SAY" ] || echo "$SAY" >&2
[ -z "$HANG" ] || exec sleep 60
echo "$@"
exit ${STATUS:-0}"""


@pytest.fixture
def srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A SLURM job whose `srun` prints its arguments, says $SAY and ends with $STATUS."""
    (tmp_path / "srun").write_text(f"#!/bin/sh\n{STARTER}\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    return monkeypatch


def test_each_node_gets_one_process_and_the_same_meeting_point(
    srun: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_on_nodes(4, 8, ["train", "--device", "cuda"]) == 0
    words = capfd.readouterr().out.split()
    assert words[:3] == ["--nodes=4", "--ntasks=4", "--ntasks-per-node=1"]
    assert "--kill-on-bad-exit=1" in words
    started = words[words.index("vrpo.runtime.nodes") + 1 :]
    assert started[:2] == ["4", socket.gethostname()] and started[2].isdecimal()
    assert started[4:] == ["8", "train", "--device", "cuda"]


@pytest.mark.parametrize(
    ("says", "line"),
    [
        ("srun: error: n2: task 1: Killed", "n2: task 1: Killed; the same command resumes"),
        ("vrpo: error: a\nvrpo: error: a\nsrun: error: n1: task 0: Exited", "a"),
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=3.0.\n"
            "srun: error: n2: task 1: Out Of Memory\nvrpo: error: a\n"
            "slurmstepd: error: *** STEP 3.0 ON n1 CANCELLED ***",
            "a\nvrpo: error: Detected 1 oom_kill event in StepId=3.0.; n2: task 1: Out Of Memory; "
            "the same command resumes",
        ),
        ("vrpo: error: a\nsrun: error: Timed out waiting for job step to complete", "a"),
        ("", "srun ended with exit status 9; the same command resumes"),
        (
            "srun: error: n2: task 1: Killed\n"
            "slurmstepd: error: *** STEP 3.0 ON n1 CANCELLED ***\n"
            "srun: error: n1: task 0: Terminated",
            "n2: task 1: Killed; *** STEP 3.0 ON n1 CANCELLED ***; n1: task 0: Terminated; "
            "the same command resumes",
        ),
        (
            "srun: error: Task launch for StepId=3.0 failed on node n2: Zero Bytes were sent\n"
            "srun: Job step aborted: Waiting up to 32 seconds for job step to finish.\n"
            "slurmstepd: error: *** STEP 3.0 ON n1 CANCELLED ***",
            "Task launch for StepId=3.0 failed on node n2: Zero Bytes were sent; "
            "*** STEP 3.0 ON n1 CANCELLED ***; the same command resumes",
        ),
    ],
)
def test_a_failure_says_why_once(
    says: str, line: str, srun: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    srun.setenv("SAY", says)
    srun.setenv("STATUS", "9")
    assert run_on_nodes(2, 0, ["train"]) == 9
    assert capfd.readouterr().err == f"vrpo: error: {line}\n"


@pytest.mark.parametrize(
    ("says", "line"),
    [
        ("vrpo: stopped at step 4\nsrun: error: n1: task 0: Exited", "vrpo: stopped at step 4"),
        (
            "srun: error: n2: task 1: Exited with exit code 75",
            "vrpo: error: n2: task 1: Exited with exit code 75; the same command resumes",
        ),
    ],
)
def test_an_interruption_says_why(
    says: str, line: str, srun: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where no rank did, it says what SLURM said."""
    srun.setenv("SAY", says)
    srun.setenv("STATUS", "75")
    assert run_on_nodes(2, 0, ["train"]) == INTERRUPTED
    assert capfd.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(
    ("says", "reason", "requeued"),
    [
        ("Exited with exit code 75", "a node of the job does not answer", True),
        ("Killed", "n1: task 0: Killed", False),
    ],
)
def test_a_step_that_does_not_end_is_left(
    says: str,
    reason: str,
    requeued: bool,
    srun: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its other nodes have ended; the job is put back where the node is lost, not a process."""
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $1 $2 > {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    srun.setattr(nodes, "ENDS_WITHIN", 0.1)
    srun.setenv(MAY_REQUEUE, "1")
    srun.setenv("HANG", "1")
    srun.setenv("SAY", f"srun: error: n1: task 0: {says}")
    assert run_on_nodes(2, 0, ["train"]) == INTERRUPTED
    goes_on = "SLURM runs this job again" if requeued else "the same command resumes"
    assert capfd.readouterr().err == f"vrpo: error: {reason}; {goes_on}\n"
    assert (tmp_path / "asked").exists() == requeued


def test_other_lines_are_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["12:00:00 step 4\n", "12:00:00 step 4\n", "srun: got SIGCONT\n"]
    assert pass_on(lines, pytest.fail) == (set(), [])
    assert capsys.readouterr().err == "12:00:00 step 4\n" * 2


def test_outside_a_slurm_job_several_nodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match="2 nodes are asked for outside a SLURM job; use"):
        run_on_nodes(2, 8, ["train"])


@pytest.mark.parametrize("count", ["0", "two", ""])
def test_no_number_of_nodes_is_one_line(count: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "vrpo", "--nodes", count, "--gpus", "1", "train"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    said = f"vrpo: error: --nodes: `{count}` is no number of nodes; give 1 or more\n"
    assert (result.returncode, result.stderr) == (2, said)


def test_nodes_of_different_torch_versions_are_refused() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "vrpo.runtime.nodes", "2", "first", "1", "1.0", "0", "train"],
        cwd=ROOT,
        env={**os.environ, "SLURM_PROCID": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "and first 1.0; install the same one on all nodes" in result.stderr


def test_a_port_that_is_taken_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "disable", lambda level: None)  # this process goes on
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        meeting = ["--nnodes=2", "--node-rank=0", "--master-addr=localhost"]
        with pytest.raises(UserError, match=f"the ranks cannot meet .*{port}.*; start again"):
            run_ranks(1, ["-m", "vrpo"], [*meeting, f"--master-port={port}"])
