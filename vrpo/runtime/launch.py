"""`vrpo --gpus N STAGE ...`: run a stage on N GPUs that no other job of this machine holds.

Snakemake's `gpu` resource counts jobs but does not say which GPU a job gets. Here each GPU has a
lock file, named by its UUID. The process turns into the stage, which keeps the locks; the kernel
drops them when the stage ends, however it ends. Jobs that share a SLURM allocation each get their
own GPUs, too. With N above 1 the stage runs on N ranks, on the CPU with `--device cpu`.
"""

from __future__ import annotations

import getpass
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vrpo.errors import BAD_INPUT, INTERRUPTED, UserError
from vrpo.files import FileLock, LockedError
from vrpo.runtime.gpus import Gpu, visible_gpus
from vrpo.runtime.queue import has_given_gpus
from vrpo.runtime.ranks import reported_error, share_threads
from vrpo.runtime.warm import run_in_fork

log = logging.getLogger(__name__)


def require_gpus(count: int, limit: int | None = None) -> None:
    """See that a job can have `count` GPUs on this machine, of which `limit` may be used at once.

    Raises:
        UserError: there are fewer; the message says how many, and why.
    """
    found = visible_gpus()
    offered = len(found.devices)
    asked = f"{count} GPUs are" if count > 1 else "a GPU is"
    if not offered and count:
        remedy = "set `resources: {device: cpu}`, or make one visible"
        reason = f"this machine offers none ({found.reason})"
        raise UserError(f"gpu: {asked} asked for, {reason}; {remedy}")
    if count > offered:
        remedy = f"set --set-resources RULE:gpu={offered} for the rule that asks for them"
        raise UserError(f"gpu: {asked} asked for, this machine offers {offered}; {remedy}")
    if count > 1 and any(gpu.name.startswith("MIG-") for gpu in found.devices):
        reason = "but a process sees only one MIG instance"
        raise UserError(f"gpu: {asked} asked for, {reason}; set --set-resources RULE:gpu=1")
    if limit is not None and count > limit:
        remedy = f"raise it or set --set-resources RULE:gpu={limit}"
        reason = f"but `--resources gpu={limit}` allows fewer"
        raise UserError(f"gpu: {asked} asked for, {reason}; {remedy}")


def take_gpus(count: int, device: str) -> None:
    """Take `count` GPUs that no other job of this machine holds, for this process and its stage.

    Without any GPU, `auto` computes on the CPU, unless SLURM has given the job one.

    Raises:
        UserError: there are fewer.
    """
    found = visible_gpus()
    if count == 1 and device == "auto" and not found.devices and not has_given_gpus():
        log.warning("no GPU here (%s): computing on the CPU", found.reason)
        return
    require_gpus(count)
    folder = Path(tempfile.gettempdir()) / f"vrpo-gpus-{getpass.getuser()}"
    names = ",".join(gpu.name for gpu in locked_gpus(found.devices, count, folder))
    os.environ.update(dict.fromkeys(found.variables, names))


def locked_gpus(gpus: Sequence[Gpu], count: int, folder: Path) -> list[Gpu]:
    """Lock `count` of `gpus` and return them, waiting until so many are free.

    All are locked at once or none, so that two jobs never wait for each other's half.
    The locks outlive `exec`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    waited = False
    while True:
        taken: dict[Gpu, FileLock] = {}
        held: dict[Gpu, LockedError] = {}
        for gpu in gpus:
            try:
                taken[gpu] = FileLock(folder / f"{gpu.uuid.replace('/', '_')}.lock")
            except LockedError as error:
                held[gpu] = error
            if len(taken) == count:
                for lock in taken.values():
                    lock.keep_after_exec()
                return list(taken)
        for lock in taken.values():
            lock.release()
        if not waited:
            holders = "; ".join(
                f"{gpu.name}: {error.holder or 'another job'}, {error.remedy}"
                for gpu, error in held.items()
            )
            log.warning(
                "waiting for %d of the GPUs %s, held by other jobs of this machine (%s)",
                count,
                ", ".join(gpu.name for gpu in gpus),
                holders,
            )
            waited = True
        time.sleep(1 + os.getpid() % 7 / 10)


def launch(gpus: int, arguments: Sequence[str], meeting: Sequence[str] = ()) -> NoReturn:
    """Take the GPUs and become the stage.

    Args:
        gpus: how many; 0 in a SLURM job that was given GPUs by `--gres` means all of these.
        arguments: the stage and its arguments.
        meeting: options of `torchrun` that say where ranks of several nodes meet.

    Raises:
        UserError: this machine lacks the GPUs.
    """
    words = [part for word in arguments for part in _parts(word)]
    place = words.index("--device") + 1 if "--device" in words[:-1] else None
    device = words[place] if place else "auto"
    if not gpus and device != "cpu" and has_given_gpus():
        gpus = len(visible_gpus().devices)
    if gpus and device != "cpu":
        take_gpus(gpus, device)
    elif place and device == "auto":
        words[place] = "cpu"
    stage = ["-m", "vrpo", *words]
    if gpus > 1 or meeting:
        share_threads(max(gpus, 1))
        sys.exit(run_ranks(max(gpus, 1), stage, meeting or ["--standalone"]))
    if not gpus and (status := run_in_fork(words)) is not None:
        sys.exit(status)
    os.execv(sys.executable, [sys.executable, *stage])


def _parts(word: str) -> list[str]:
    """`--device=cpu` as two words."""
    return word.split("=", 1) if word.startswith("--device=") else [word]


def run_ranks(count: int, stage: list[str], meeting: Sequence[str]) -> int:
    """Run `python STAGE` on `count` ranks of this node by `torchrun`; each error is shown once.

    Returns:
        The exit status.

    Raises:
        UserError: the ranks' meeting point cannot be had or reached.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    before = logging.root.manager.disable
    # it logs which rank was ended after which; the ranks say why
    logging.disable(logging.ERROR)
    try:
        run(parse_args([*meeting, f"--nproc-per-node={count}", *stage]))
    except SignalException:
        return INTERRUPTED
    except DistError as error:  # ranks meet no others, so theirs are not here
        raise UserError(
            f"{socket.gethostname()}: the ranks cannot meet ({' '.join(str(error).split())[:200]});"
            " start again, and see that the nodes reach each other's ports"
        ) from None
    except ChildFailedError as error:
        status, lines = outcome(
            {
                rank: (failure.exitcode, reported_error(failure.error_file_data))
                for rank, failure in error.failures.items()
            }
        )
        print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr)
        return status
    finally:
        logging.disable(before)
    return 0


def outcome(failures: dict[int, tuple[int, tuple[str, int] | None]]) -> tuple[int, list[str]]:
    """Exit status of a stage, and what is still to be said about it.

    The first rank has shown its own message. When one rank has ended, torchrun ends the others, by
    SIGTERM and, if they are stuck, by SIGKILL. That, and what they say about it, is left out where
    it is known why the first of them ended.

    Args:
        failures: of each failed rank the exit status, and the message and status that it reported.
    """
    said = {rank: report for rank, (_, report) in failures.items() if report}
    refused = {rank: report for rank, report in said.items() if report[1] == BAD_INPUT}
    silent = {rank: status for rank, (status, report) in failures.items() if not report}
    culprits = {
        rank: status
        for rank, status in silent.items()
        if status > 0 or (status != -signal.SIGTERM and not refused)
    }
    if not said and not culprits:
        culprits = silent
    shown = refused if refused or culprits else said
    lines = list(
        dict.fromkeys(
            message
            for rank, (message, _) in sorted(shown.items())
            if 0 not in said or message != said[0][0]
        )
    )
    lines += [
        f"vrpo: error: rank {rank} {_ended(status)}" for rank, status in sorted(culprits.items())
    ]
    return BAD_INPUT if refused else 1 if culprits else INTERRUPTED, lines


def _ended(status: int) -> str:
    return (
        f"was ended by {signal.Signals(-status).name}"
        if status < 0
        else f"ended with exit status {status}; what it said is above"
    )
