"""Trainings killed at random moments, and one of two ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.training import Toy, milestone_file

pytestmark = pytest.mark.usefixtures("one_thread")

KILLS = 20


def test_killed_at_twenty_random_moments(toy: Toy, tmp_path: Path) -> None:
    """SIGKILL while starting, training and writing states, which happens after every step.

    The end has the bytes of an undisturbed run.
    """
    config, run = toy.config("vrpo"), tmp_path / "killed"
    whole = toy.train_to(config, tmp_path / "whole", 300).read_bytes()
    met, half_written = toy.drive(300, "kill", KILLS, run)
    assert met == KILLS, "some trainings ended before they were killed"
    assert half_written, "no kill came while a state was written"
    assert toy.train_to(config, run, 300).read_bytes() == whole
    for table in ("train.csv", "diagnostics.csv"):
        assert (run / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
    assert len(list((run / "state").glob("*/step*.pt"))) == 2
    assert not list(run.rglob("*.partial"))


def test_two_ranks_and_one_is_killed(toy: Toy, tmp_path: Path) -> None:
    """Both end, with a message; started again they end in the bytes of two undisturbed ranks."""
    config, milestone = toy.config("vrpo"), 200
    run = tmp_path / "killed"
    command = toy.command(
        config, run, 100_000, "--save-minutes", "0.000001", ranks=2
    )  # which does not end before it is killed
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    wait_for(lambda: len(list((run / "state").glob("*/step*.pt"))) == 2, process)
    ranks = {rank_of(pid): pid for pid in children_of(process.pid)}
    os.kill(ranks[1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode != 0
    assert not any(is_running(pid) for pid in ranks.values())
    assert "another rank is gone" in stderr or "SIGTERM" in stderr, stderr
    assert not list(run.glob("*.safetensors"))
    assert toy.drive(milestone, "ranks", 2, run, tmp_path / "whole") == [0, 0, 0, 0]
    assert (
        milestone_file(run, milestone).read_bytes()
        == milestone_file(tmp_path / "whole", milestone).read_bytes()
    )


def wait_for(condition: Any, process: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def rank_of(pid: int) -> int | None:
    variables = dict(
        pair.partition("=")[::2] for pair in Path(f"/proc/{pid}/environ").read_text().split("\0")
    )
    return int(variables["RANK"]) if "RANK" in variables else None


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
