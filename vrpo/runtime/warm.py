"""Jobs that start as forks of a process that has imported PyTorch and the other libraries.

These imports take longer than many a job of a small experiment: several seconds of a CPU. A
workflow on this machine's CPU starts one such process, and `vrpo --gpus 0 STAGE` asks it for a
fork. The fork has the caller's arguments, environment, folder, streams and signals, and ends as
any other process. Without the process, or before it is ready, a stage starts by itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from vrpo.runtime.ranks import THREAD_VARIABLES

ADDRESS = "VRPO_WARM"
"""Environment variable with the socket's path."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
OWN = (*THREAD_VARIABLES, "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LD_PRELOAD")
"""Variables that are read when libraries are loaded: a job with others starts by itself."""
POLL = 1.0  # seconds between looks at the parent


class _Job(NamedTuple):
    pid: int
    caller: socket.socket


def start_warm_process(modules: Sequence[str], threads: int, path: str) -> None:
    """Start a process that imports `modules`; it ends with this one.

    Its address is in the environment. It is there once all is imported.

    Args:
        modules: their full names.
        threads: CPU threads of the jobs.
        path: their PYTHONPATH.
    """
    address = Path(tempfile.mkdtemp(prefix="vrpo-")) / "warm"
    variables = {**dict.fromkeys(THREAD_VARIABLES, str(threads)), "PYTHONPATH": path}
    subprocess.Popen(
        [sys.executable, "-m", "vrpo.runtime.warm", str(address), *modules],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # signals reach jobs through their callers
    )
    os.environ[ADDRESS] = str(address)


def run_in_fork(arguments: Sequence[str]) -> int | None:
    """Run `vrpo ARGUMENTS` as a fork of the warm process, and wait for it.

    Signals are passed on. If this process is killed, so is the fork.

    Returns:
        The exit status, 128 and the signal's number if one ended it; None: there is no warm
        process, or not one for this environment.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.environ[ADDRESS])
        except (KeyError, OSError):
            return None
        request = {"words": [*arguments], "folder": str(Path.cwd()), "environment": {**os.environ}}
        message = json.dumps(request).encode()
        replies = connection.makefile("rb")
        try:
            socket.send_fds(connection, [f"{len(message):08d}".encode()], [0, 1, 2])
            connection.sendall(message)
            pid = int(replies.readline() or 0)
        except OSError:
            return None
        if not pid:
            return None

        def forward(number: int, _: FrameType | None) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

        for number in FORWARDED:
            signal.signal(number, forward)
        status = replies.readline()
        if not status:  # the warm process was killed: nobody can say how the job ends
            _kill(pid)
            return 1
        return int(status)


def serve(address: Path, modules: Sequence[str]) -> list[str]:
    """Import `modules` and fork for each request, until the parent has ended.

    Returns:
        In each fork the arguments of its job; in the server itself nothing, when it ends.
    """
    parent, jobs = os.getppid(), dict[int, _Job]()
    for module in modules:
        importlib.import_module(module)
    with socket.socket(socket.AF_UNIX) as listening:
        hidden = address.with_suffix(".new")
        listening.bind(str(hidden))
        listening.listen(64)
        hidden.rename(address)
        while os.getppid() == parent or jobs:
            callers = {job.caller.fileno(): job for job in jobs.values()}
            for ready in select.select([listening, *jobs, *callers], [], [], POLL)[0]:
                if ready in jobs:
                    _finish(ready, jobs.pop(ready))
                elif ready in callers:  # it is gone, for it never writes again
                    _kill(callers[ready].pid)
                elif ready is listening and (words := _fork(listening, jobs)) is not None:
                    return words
    return []


def _fork(listening: socket.socket, jobs: dict[int, _Job]) -> list[str] | None:
    """Accept a caller; in the fork for its job return the arguments, in the server None."""
    caller, _ = listening.accept()
    streams: list[int] = []
    try:
        length, streams, _, _ = socket.recv_fds(caller, 8, 3)
        request = json.loads(caller.recv(int(length), socket.MSG_WAITALL))
        environment = request["environment"]
        if any(environment.get(name) != os.environ.get(name) for name in OWN):
            caller.close()
        elif pid := os.fork():
            jobs[os.pidfd_open(pid)] = _Job(pid, caller)
            with contextlib.suppress(OSError):
                caller.sendall(f"{pid}\n".encode())
        else:
            os.setsid()
            for own, stream in enumerate(streams):
                os.dup2(stream, own)
            for each in (listening, caller, *(job.caller for job in jobs.values())):
                each.close()
            for number in jobs:
                os.close(number)
            os.chdir(request["folder"])
            os.environ.clear()
            os.environ.update(environment)
            return request["words"]
    except (OSError, ValueError):  # the caller was killed
        caller.close()
    finally:
        for stream in streams:
            os.close(stream)
    return None


def _finish(number: int, job: _Job) -> None:
    """Tell the caller how its job ended."""
    _, waited = os.waitpid(job.pid, 0)
    code = os.waitstatus_to_exitcode(waited)
    with contextlib.suppress(OSError):
        job.caller.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
    job.caller.close()
    os.close(number)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    server, place = os.getpid(), Path(sys.argv[1])
    try:
        sys.argv[1:] = serve(place, sys.argv[2:])
    finally:
        if os.getpid() == server:
            shutil.rmtree(place.parent, ignore_errors=True)
    if os.getpid() != server:
        runpy.run_module("vrpo", run_name="__main__")
