"""`python -m vrpo.launch N STAGE ...`: run `python -m vrpo STAGE ...` on N GPUs that no other job of this machine holds.

Snakemake's `gpu` resource counts jobs but does not say which GPU a job gets. Here each GPU has a lock file, named by its
UUID; the locks that this process takes stay with the stage, into which it turns, and the kernel drops them when the stage
ends, however it ends. In a SLURM allocation that several jobs share, each gets its own as well; in one made for a single job
nobody else holds its GPUs. With more than one GPU the stage runs on as many ranks; with `--device cpu` as well.
"""

from __future__ import annotations

import getpass
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from vrpo.errors import BAD_INPUT, INTERRUPTED, UserError
from vrpo.files import FileLock, LockedError
from vrpo.restore import restore, take_planned
from vrpo.runtime.gpus import Gpu, visible_gpus
from vrpo.runtime.ranks import reported_error, set_up_logging, share_threads

log = logging.getLogger(__name__)
CHECKOUT = Path(__file__).resolve().parents[1]


def use_environment_of(python: str) -> None:
    """Let the processes that this one starts find `python`'s environment, activated or not."""
    os.environ["PATH"] = os.pathsep.join(
        [str(Path(python).parent), os.environ.get("PATH", os.defpath)]
    )


def run_check(*arguments: str) -> None:
    """Run `python -m vrpo ARGUMENTS`, which is quiet where all is well.

    Raises:
        UserError: it is not; the message is that of the command.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    result = subprocess.run(
        [sys.executable, "-m", "vrpo", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise UserError(result.stderr.strip().splitlines()[-1].removeprefix("vrpo: error: "))


def requested_gpus(device: str, gpus: int, *, stated: bool) -> tuple[int, str]:
    """GPUs of a training, and the device of all jobs, as a config asks for them.

    Args:
        device: `auto`, `cpu` or `cuda`.
        gpus: of a training.
        stated: whether the config itself says how many; then they are not optional, and no job may fall back to the CPU.

    Raises:
        UserError: `cuda` with no GPU.
    """
    if device == "cuda" and not gpus:
        raise UserError(
            "resources.gpus: 0 does not go with `resources.device: cuda`; set it to 1 or more, or the device to `cpu`"
        )
    if device == "cpu" or not gpus:
        return 0, "cpu"
    return gpus, "cuda" if stated else device


def require_gpus(count: int, limit: int | None = None) -> None:
    """See that a job can have `count` GPUs on this machine, of which `limit` may be used at once.

    Raises:
        UserError: there are fewer; the message says how many, and why.
    """
    found = visible_gpus()
    offered = len(found.devices)
    if count > offered:
        remedy = (
            f"--config resources='{{gpus: {offered}}}'"
            if offered
            else "`resources: {device: cpu}`, or make one visible"
        )
        raise UserError(
            f"resources.gpus: {_gpus(count)} asked for, this machine offers {offered or f'none ({found.reason})'}; set {remedy}"
        )
    if count > 1 and any(gpu.name.startswith("MIG-") for gpu in found.devices):
        raise UserError(
            f"resources.gpus: {_gpus(count)} asked for, but of MIG instances a process sees one only; set --config resources='{{gpus: 1}}'"
        )
    if limit is not None and count > limit:
        raise UserError(
            f"resources.gpus: {_gpus(count)} asked for, but `--resources gpu={limit}` allows fewer; raise it or set resources.gpus to {limit}"
        )


def _gpus(count: int) -> str:
    return f"{count} GPUs are" if count > 1 else "a GPU is"


def take_gpus(count: int, device: str) -> None:
    """Let this process, and what it turns into, see `count` GPUs that no other job of this machine holds.

    Raises:
        UserError: there are fewer. Without any, `device: auto` computes on the CPU, unless SLURM has given the job a GPU.
    """
    found = visible_gpus()
    given_by_slurm = any(name.startswith("SLURM_") and "GPU" in name for name in os.environ)
    if count == 1 and device == "auto" and not found.devices and not given_by_slurm:
        log.warning("no GPU here (%s): computing on the CPU", found.reason)
        return
    require_gpus(count)
    folder = Path(tempfile.gettempdir()) / f"vrpo-gpus-{getpass.getuser()}"
    names = ",".join(gpu.name for gpu in locked_gpus(found.devices, count, folder))
    os.environ.update(dict.fromkeys(found.variables, names))


def locked_gpus(gpus: Sequence[Gpu], count: int, folder: Path) -> list[Gpu]:
    """Lock `count` of `gpus` and return them, waiting until so many are free.

    All are locked at once or none, so that two jobs never wait for each other's half. The locks outlive `exec`.
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


def main() -> None:
    """Restore the stage's result, or take the GPUs and become the stage."""
    set_up_logging()
    count, arguments = int(sys.argv[1]), sys.argv[2:]
    device = arguments[arguments.index("--device") + 1] if "--device" in arguments else "auto"
    stage = ["-m", "vrpo", *arguments]
    try:
        if restore(take_planned(arguments)):
            return
        if count and device != "cpu":
            take_gpus(count, device)
    except UserError as error:
        print(f"vrpo: error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    if count > 1:
        share_threads(count)
        sys.exit(run_ranks(count, stage))
    os.execv(sys.executable, [sys.executable, *stage])


def run_ranks(count: int, stage: list[str]) -> int:
    """Run `python STAGE` on `count` ranks by `torchrun`; returns the exit status, after each line that ended a rank was shown once."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed.elastic").setLevel(
        logging.CRITICAL
    )  # which rank was ended after which: the ranks say why
    try:
        run(parse_args(["--standalone", f"--nproc-per-node={count}", *stage]))
    except SignalException:
        return INTERRUPTED
    except ChildFailedError as error:
        status, lines = outcome(
            {
                rank: (failure.exitcode, reported_error(failure.error_file_data))
                for rank, failure in error.failures.items()
            }
        )
        print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr)
        return status
    return 0


def outcome(failures: dict[int, tuple[int, tuple[str, int] | None]]) -> tuple[int, list[str]]:
    """Exit status of a stage, and what is still to be said about it.

    The first rank has shown its own message. When one rank has ended, torchrun ends the others, by SIGTERM and those that are stuck by SIGKILL:
    that is left out, and so is what they say about it, where it is known why the first of them ended.

    Args:
        failures: of each rank that failed its exit status, and the message and the status that it reported, if any.
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


if __name__ == "__main__":
    main()
