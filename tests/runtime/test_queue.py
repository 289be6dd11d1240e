"""The job of a queue that a process belongs to: its time limit and its GPUs."""

import subprocess
from datetime import datetime, timedelta

import pytest

from vrpo.runtime import queue


def answer(monkeypatch: pytest.MonkeyPatch, text: str | Exception) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if isinstance(text, Exception):
            raise text
        assert command[0] == "squeue" and "17" in command
        return subprocess.CompletedProcess(command, 0, f"{text}\n", "")

    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(queue.subprocess, "run", run)


def test_minutes_until_the_limit_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    end = datetime.now() + timedelta(minutes=90)
    answer(monkeypatch, end.isoformat(timespec="seconds"))
    assert queue.minutes_left() == pytest.approx(90, abs=1)


@pytest.mark.parametrize(
    "text",
    [
        "N/A",
        "",
        "NONE",
        FileNotFoundError("squeue"),
        subprocess.CalledProcessError(1, "squeue"),
        subprocess.TimeoutExpired("squeue", 30),
    ],
)
def test_no_limit_or_no_answer(monkeypatch: pytest.MonkeyPatch, text: str | Exception) -> None:
    answer(monkeypatch, text)
    assert queue.minutes_left() is None


def test_outside_a_queue_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, AssertionError("asked"))
    monkeypatch.delenv("SLURM_JOB_ID")
    assert queue.minutes_left() is None


def test_gpus_that_the_queue_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_GPUS", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert not queue.has_given_gpus()
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    assert queue.has_given_gpus()


@pytest.mark.parametrize(
    ("allowed", "out_of_time", "preempted", "expected"),
    [
        ("1", True, "None", True),
        ("1", False, "None", False),  # cancelled, or ended by hand
        ("1", False, "2026-01-01T10:00:00", True),
        ("", True, "None", False),
    ],
)
def test_which_jobs_are_put_back(
    allowed: str,
    out_of_time: bool,
    preempted: str,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = []

    def run(command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, f"JobId=17 PreemptTime={preempted} A=b", "")

    monkeypatch.setattr(queue.subprocess, "run", run)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv(queue.MAY_REQUEUE, allowed)
    assert queue.put_back(by_itself=out_of_time) == expected
    assert (("scontrol", "requeue", "17") in commands) == expected
