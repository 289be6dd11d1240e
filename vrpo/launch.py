"""`python -m vrpo.launch N STAGE ...`: run `python -m vrpo STAGE ...` on N GPUs that no other job of this machine holds.

Snakemake's `gpu` resource counts jobs but does not say which device a job gets. Here each device has a lock file; the
locks that this process takes stay with the stage, into which it turns, and the kernel drops them when the stage ends,
however it ends. Inside a SLURM allocation, or without any GPU to choose from, the stage simply runs. More than one GPU is
torchrun's business.
"""

from __future__ import annotations

import getpass
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from vrpo.errors import BAD_INPUT, INTERRUPTED, UserError
from vrpo.files import FileLock, LockedError
from vrpo.ranks import reported_error, set_up_logging, share_threads
from vrpo.restore import restore, take_planned

log = logging.getLogger(__name__)


def use_environment_of(python: str) -> None:
    """Let the processes that this one starts find `python`'s environment, activated or not."""
    os.environ["PATH"] = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", os.defpath)])


def visible_devices() -> list[str]:
    """The GPUs that may be used: those of CUDA_VISIBLE_DEVICES, or all of the machine."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device.strip() for device in chosen.split(",") if device.strip()]
    return sorted((path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


def take_devices(devices: list[str], count: int, folder: Path) -> list[str]:
    """Lock `count` of `devices` and return them, waiting until so many are free.

    All are taken at once or none, so that two jobs never wait for each other's half. The locks outlive `exec`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    waited = False
    while True:
        taken: dict[str, FileLock] = {}
        held: dict[str, LockedError] = {}
        for device in devices:
            try:
                taken[device] = FileLock(folder / f"{device.replace('/', '_')}.lock")
            except LockedError as error:
                held[device] = error
            if len(taken) == count:
                for lock in taken.values():
                    lock.keep_after_exec()
                return list(taken)
        for lock in taken.values():
            lock.release()
        if not waited:
            holders = "; ".join(f"{device}: {error.holder or 'another job'}, {error.remedy}" for device, error in held.items())
            log.warning("waiting for %d of the GPUs %s, held by other jobs of this machine (%s)", count, ", ".join(devices), holders)
            waited = True
        time.sleep(1 + os.getpid() % 7 / 10)


def main() -> None:
    """Take the devices and become the stage."""
    set_up_logging()
    count, stage = int(sys.argv[1]), ["-m", "vrpo", *sys.argv[2:]]
    try:
        if restore(take_planned(sys.argv[2:])):
            return
    except UserError as error:
        print(f"vrpo: error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    devices = visible_devices()
    if count and devices and "SLURM_JOB_ID" not in os.environ:
        if count > len(devices):
            sys.exit(f"resources.gpus: the job asks for {count} GPUs, this machine offers {len(devices)}; set --config resources='{{gpus: {len(devices)}}}'")
        folder = Path(tempfile.gettempdir()) / f"vrpo-gpus-{getpass.getuser()}"
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take_devices(devices, count, folder))
    if count > 1:
        share_threads(count)
        sys.exit(run_ranks(count, stage))
    os.execv(sys.executable, [sys.executable, *stage])


def run_ranks(count: int, stage: list[str]) -> int:
    """Run `python STAGE` on `count` ranks by `torchrun`; returns the exit status, after each line that ended a rank was shown once."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # which rank was ended after which: the ranks say why
    try:
        run(parse_args(["--standalone", f"--nproc-per-node={count}", *stage]))
    except SignalException:
        return INTERRUPTED
    except ChildFailedError as error:
        status, lines = outcome({rank: (failure.exitcode, reported_error(failure.error_file_data)) for rank, failure in error.failures.items()})
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
    culprits = {rank: status for rank, status in silent.items() if status > 0 or (status != -signal.SIGTERM and not refused)}
    if not said and not culprits:
        culprits = silent
    shown = refused if refused or culprits else said
    lines = list(dict.fromkeys(message for rank, (message, _) in sorted(shown.items()) if 0 not in said or message != said[0][0]))
    lines += [f"vrpo: error: rank {rank} {_ended(status)}" for rank, status in sorted(culprits.items())]
    return BAD_INPUT if refused else 1 if culprits else INTERRUPTED, lines


def _ended(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}; what it said is above"


if __name__ == "__main__":
    main()
