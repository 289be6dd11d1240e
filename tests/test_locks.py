"""Two writers exclude each other, also on file systems that have no `flock`.

A killed writer blocks nobody.
"""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vrpo import files
from vrpo.data.arrays import ArrayWriter
from vrpo.errors import UserError
from vrpo.files import FileLock, LockedError, exclusive_lock, file_system
from vrpo.holders import holder_of_this_process, is_gone, is_running, read_holder
from vrpo.runtime.gpus import Gpu
from vrpo.runtime.launch import locked_gpus

ANSWERS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL]
SHAPES = {"values": ((2,), "float32")}

HOLDER = """
import errno, fcntl, sys, time
from pathlib import Path
from vrpo.files import exclusive_lock

def no_flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")

fcntl.flock = no_flock
with exclusive_lock(Path(sys.argv[1]), "a training"):
    print("held", flush=True)
    time.sleep(60)
"""


def answer_flock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let `flock` fail with an error."""

    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    files._warn_of_missing_locks.cache_clear()


@pytest.fixture
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks."""
    answer_flock(monkeypatch, errno.ENOSYS)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock without `flock`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("answer", ANSWERS, ids=errno.errorcode.get)
def test_work_goes_on_without_flock_with_one_warning(
    answer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer_flock(monkeypatch, answer)
    for name in ("first", "second"):
        with exclusive_lock(tmp_path / name, "a workflow"):
            pass
    with ArrayWriter(tmp_path / "arrays.h5", SHAPES, {}) as writer:
        assert writer.done == 0
    assert locked_gpus([Gpu("0", "a"), Gpu("1", "b")], 2, tmp_path / "devices")
    (said,) = [record.getMessage() for record in caplog.records]
    mount, kind = file_system(tmp_path)
    assert said.startswith(
        f"{mount}: this file system ({kind}) has no file locks ({os.strerror(answer)})"
    )
    left = sorted(path.name for path in tmp_path.rglob("*.held"))
    assert left == ["a.lock.held", "b.lock.held"], (
        "devices are held until the process ends, all else was given back"
    )


@pytest.mark.usefixtures("without_flock")
def test_a_second_writer_is_refused_without_flock(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "lock", "a training"):
        with pytest.raises(
            UserError,
            match=(
                rf"lock: a training is already running \(host .*, pid {os.getpid()}, "
                rf"SLURM job none\); wait .* delete .*lock\.held$"
            ),
        ):
            exclusive_lock(tmp_path / "lock", "a training").__enter__()
        with pytest.raises(LockedError):
            FileLock(tmp_path / "lock")
    with exclusive_lock(tmp_path / "lock", "a training"):
        pass
    with (
        ArrayWriter(tmp_path / "arrays.h5", SHAPES, {}),
        pytest.raises(
            UserError,
            match=rf"arrays\.h5: another process is writing it \(host .*pid {os.getpid()}",
        ),
    ):
        ArrayWriter(tmp_path / "arrays.h5", SHAPES, {}).__enter__()


@pytest.mark.usefixtures("without_flock")
def test_a_killed_holder_is_known_to_be_gone(holder: subprocess.Popen, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with pytest.raises(LockedError, match=f"pid {holder.pid},"):
        FileLock(lock)
    holder.send_signal(signal.SIGKILL)
    os.waitid(
        os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT
    )  # a zombie: its parent has not asked for its status
    FileLock(lock).release()
    assert not list(tmp_path.glob("*held*"))


@pytest.mark.usefixtures("without_flock")
def test_the_process_number_of_a_dead_holder_may_be_another_process_by_now(tmp_path: Path) -> None:
    (tmp_path / "lock.held").write_text(json.dumps({**holder_of_this_process(), "started": "1"}))
    FileLock(tmp_path / "lock").release()


OTHER_HOST = {
    "host": "node17",
    "boot": "of another machine",
    "namespace": "pid:[1]",
    "started": "1",
    "pid": 7,
    "job": None,
}


@pytest.mark.usefixtures("without_flock")
@pytest.mark.parametrize(
    "content",
    [json.dumps(OTHER_HOST), json.dumps({**OTHER_HOST, "host": "here"}), "", '{"host": "no'],
)
def test_what_cannot_be_known_is_refused_and_says_how_to_go_on(
    content: str, tmp_path: Path
) -> None:
    """A process of another host, and one of another boot or container with the same name.

    Also a file that is not whole.
    """
    held = tmp_path / "lock.held"
    held.write_text(content)
    with pytest.raises(
        UserError, match=r"already running \(.*\); .*, so if it no longer runs, delete "
    ) as refused:
        exclusive_lock(tmp_path / "lock", "a training").__enter__()
    assert str(held) in str(refused.value) and "\n" not in str(refused.value)
    held.unlink()
    FileLock(tmp_path / "lock").release()


@pytest.mark.usefixtures("without_flock")
def test_a_job_that_waits_for_a_device_says_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = tmp_path / "a.lock.held"
    held.write_text(json.dumps(OTHER_HOST))
    rounds = iter([lambda: None, held.unlink])
    monkeypatch.setattr("vrpo.runtime.launch.time.sleep", lambda seconds: next(rounds)())
    assert locked_gpus([Gpu("0", "a")], 1, tmp_path) == [Gpu("0", "a")]
    (said,) = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert (
        said.startswith("waiting for 1 of the GPUs 0")
        and "host node17, pid 7" in said
        and f"delete {held}" in said
    )


@pytest.mark.usefixtures("without_flock")
@pytest.mark.parametrize(
    ("squeue", "over"),
    [
        ("true", True),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True),
        ("echo RUNNING", False),
        ("echo COMPLETING", False),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", False),
    ],
)
def test_slurm_knows_the_jobs_of_other_hosts(
    squeue: str, over: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n{squeue}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    (tmp_path / "lock.held").write_text(json.dumps({**OTHER_HOST, "job": "7"}))
    if over:
        FileLock(tmp_path / "lock").release()
    else:
        with pytest.raises(LockedError, match="host node17, pid 7, SLURM job 7"):
            FileLock(tmp_path / "lock")


def test_the_end_of_a_process_gives_back_what_it_held(tmp_path: Path) -> None:
    """Also where nothing else does, as in a Snakefile."""
    source = (
        HOLDER[: HOLDER.index("with")]
        + "lock = exclusive_lock(Path(sys.argv[1]), 'a workflow'); lock.__enter__()"
    )
    subprocess.run(
        [sys.executable, "-c", source, str(tmp_path / "lock")], check=True, capture_output=True
    )
    assert not (tmp_path / "lock.held").exists()
    assert read_holder(tmp_path / "lock") == {}


def test_a_lock_names_its_holder_until_the_release(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive_lock(lock, "a training"):
        assert is_running(read_holder(lock)) is True
        with pytest.raises(UserError, match=rf"running \(host .*, pid {os.getpid()}, .*\); wait"):
            exclusive_lock(lock, "a training").__enter__()
    assert read_holder(lock) == {}


def test_a_killed_process_leaves_its_record(holder: subprocess.Popen, tmp_path: Path) -> None:
    record = read_holder(tmp_path / "lock")
    assert record["pid"] == holder.pid and is_running(record) is True
    holder.kill()
    holder.wait()
    assert read_holder(tmp_path / "lock") == record and is_running(record) is False


def test_a_process_of_another_host_is_not_judged() -> None:
    assert is_running(OTHER_HOST) is None and not is_gone(OTHER_HOST)


@pytest.mark.usefixtures("without_flock")
def test_a_device_stays_held_by_what_the_launcher_turns_into(tmp_path: Path) -> None:
    source = HOLDER[: HOLDER.index("with")] + (
        "import os; from vrpo.runtime.gpus import Gpu; from vrpo.runtime.launch import "
        "locked_gpus; locked_gpus([Gpu('0', 'a')], 1, Path(sys.argv[1]))\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'import time; print(1, "
        "flush=True); time.sleep(60)'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "1\n"
        with pytest.raises(LockedError, match=f"pid {process.pid},"):
            FileLock(tmp_path / "a.lock")
        process.kill()
        process.wait()
        FileLock(tmp_path / "a.lock").release()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_other_errors_are_no_missing_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_flock(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        FileLock(tmp_path / "lock")


def test_a_folder_that_cannot_be_written_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(UserError, match="cannot be written"):
        exclusive_lock(tmp_path / "lock", "a workflow").__enter__()
