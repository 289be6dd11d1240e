"""SLURM jobs that are held after a failed launch, where they would wait for ever.

SLURM holds a job that a node did not start, for instance because the node was still ending the
job's run before a requeue. It does not try again by itself (`launch failed requeued held`).
"""

from __future__ import annotations

import getpass
import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from vrpo.runtime.queue import ask

if TYPE_CHECKING:
    from snakemake_executor_plugin_slurm import Executor

EVERY = 60.0  # seconds between two looks
RELEASES = 5  # of one job: a launch that fails again and again has a cause of its own


def release_held(executor: Executor) -> None:
    """Release the workflow's held jobs, in a thread that ends with the process."""
    held = HeldJobs(executor)

    def watch() -> None:
        while True:
            time.sleep(EVERY)
            held.look()

    threading.Thread(target=watch, name="held-jobs", daemon=True).start()


class HeldJobs:
    """A workflow's held jobs: each is released at most `RELEASES` times, then named once."""

    def __init__(self, executor: Executor) -> None:
        self.logger = executor.logger
        self.prefix = executor.run_uuid.rpartition("_")[0]
        self.releases: Counter[str] = Counter()
        self.named: set[str] = set()

    def look(self) -> None:
        """Release the jobs that are held now."""
        for number in held_jobs(self.prefix):
            if number not in self.named:
                self._release(number)

    def _release(self, number: str) -> None:
        tries_left = self.releases[number] < RELEASES
        if tries_left and ask("scontrol", "release", number) is not None:
            self.releases[number] += 1
            self.logger.info(f"SLURM job {number} did not start on its node and was released.")
            return
        self.named.add(number)
        self.logger.warning(
            f"SLURM job {number} is held, because it did not start on its node, and waits until "
            f"you release or end it: `scontrol release {number}`, or `scancel {number}` for "
            f"another try; `scontrol show job {number}` names the node"
        )


def held_jobs(prefix: str) -> list[str]:
    """Numbers of this user's jobs whose name begins with `prefix` and whose launch failed."""
    user = "--user", getpass.getuser()
    answer = ask("squeue", "--noheader", *user, "--states", "PENDING", "--format", "%i|%r|%j")
    found = []
    for line in (answer or "").splitlines():
        number, reason, name = line.split("|", 2)
        plain = re.sub(r"[ _]", "", reason).lower()
        if name.startswith(f"{prefix}_") and plain == "launchfailedrequeuedheld":
            found.append(number)
    return found
