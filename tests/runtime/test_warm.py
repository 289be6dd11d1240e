"""Jobs that start as forks of a warm process behave as those that start by themselves."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vrpo.runtime.ranks import THREAD_VARIABLES
from vrpo.runtime.warm import ADDRESS, run_in_fork, start_warm_process

from tests.fixtures import ROOT

PATIENCE = 60.0


def wait_until(true: Callable[[], bool]) -> None:
    """Wait; fails after `PATIENCE` seconds."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Environment of callers, with the address of a warm process."""
    start_warm_process(["json"], threads=1, path=str(ROOT))
    address = os.environ.pop(ADDRESS)
    wait_until(Path(address).exists)
    threads = dict.fromkeys(THREAD_VARIABLES, "1")
    yield {**os.environ, **threads, "PYTHONPATH": str(ROOT), ADDRESS: address}


def command(*words: str) -> list[str]:
    """`vrpo --gpus 0 WORDS`."""
    return [sys.executable, "-m", "vrpo", "--gpus", "0", *words]


def has_reader(pipe: Path) -> bool:
    """Whether a process reads a named pipe, or waits to."""
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        assert error.errno == errno.ENXIO
        return False
    return True


@pytest.mark.parametrize(
    "words", [("images", "--help"), ("sample", "--config", "missing.yaml"), ("no-such-stage",)]
)
def test_a_fork_says_and_returns_what_a_process_does(
    environment: dict[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    def run(variables: dict[str, str]) -> subprocess.CompletedProcess:
        return subprocess.run(
            command(*words), env=variables, cwd=tmp_path, capture_output=True, check=False
        )

    cold = {name: value for name, value in environment.items() if name != ADDRESS}
    forked, alone = run(environment), run(cold)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        alone.returncode,
        alone.stdout,
        alone.stderr,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_fork_ends_with_its_caller(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    """SIGTERM is passed on; after SIGKILL the fork does not go on either."""
    os.mkfifo(tmp_path / "config.yaml")  # to open it is to wait
    words = ("images", "--config", "config.yaml", "--output", "images.h5")
    caller = subprocess.Popen(command(*words), env=environment, cwd=tmp_path)
    wait_until(lambda: has_reader(tmp_path / "config.yaml"))
    caller.send_signal(number)
    assert caller.wait(PATIENCE) == (128 + number if number == signal.SIGTERM else -number)
    os.close(os.open(tmp_path / "config.yaml", os.O_RDWR | os.O_NONBLOCK))
    wait_until(lambda: not has_reader(tmp_path / "config.yaml"))


def test_other_threads_start_by_themselves(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries have read the number of threads when they were loaded."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert run_in_fork(["images", "--help"]) is None
    monkeypatch.delenv(ADDRESS)
    assert run_in_fork(["images", "--help"]) is None


def test_the_warm_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """It leaves nothing behind."""
    program = (
        "import os, time\n"
        "from vrpo.runtime.warm import ADDRESS, start_warm_process\n"
        f"start_warm_process(['json'], 1, {str(ROOT)!r})\n"
        "while not os.path.exists(os.environ[ADDRESS]): time.sleep(0.02)\n"
        "print(os.environ[ADDRESS])\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).parent.parent == tmp_path
    wait_until(lambda: not any(tmp_path.iterdir()))
