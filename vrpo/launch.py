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
import sys
import tempfile
import time
from pathlib import Path

from vrpo.errors import UserError
from vrpo.files import FileLock, LockedError
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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    count, stage = int(sys.argv[1]), ["-m", "vrpo", *sys.argv[2:]]
    try:
        if restore(take_planned(sys.argv[2:])):
            return
    except UserError as error:
        print(f"vrpo: error: {error}", file=sys.stderr)
        sys.exit(2)
    devices = visible_devices()
    if count and devices and "SLURM_JOB_ID" not in os.environ:
        if count > len(devices):
            sys.exit(f"resources.gpus: the job asks for {count} GPUs, this machine offers {len(devices)}; set --config resources='{{gpus: {len(devices)}}}'")
        folder = Path(tempfile.gettempdir()) / f"vrpo-gpus-{getpass.getuser()}"
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take_devices(devices, count, folder))
    if count > 1:
        stage = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *stage]
    os.execv(sys.executable, [sys.executable, *stage])


if __name__ == "__main__":
    main()
