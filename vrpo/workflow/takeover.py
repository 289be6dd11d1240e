"""SLURM jobs that a killed workflow left: a new start waits for them, or ends them.

Snakemake itself would submit the same work again, beside the jobs that still run.
"""

from __future__ import annotations

import getpass
import hashlib
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from snakemake_executor_plugin_slurm.utils import get_job_wildcards
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from vrpo.errors import UserError
from vrpo.runtime.queue import ask

if TYPE_CHECKING:
    from snakemake.jobs import Job
    from snakemake_executor_plugin_slurm import Executor

Submit = Callable[["Job"], None]
ENDS_WITHIN = 600  # seconds, of a cancelled job; SLURM's KillWait is 30 by default


class Left(NamedTuple):
    """A job of an earlier start, in the queue or running."""

    number: str
    state: str
    submitted: float
    """Seconds since 1970."""
    comment: str
    """Rule and wildcards, as the plugin writes them."""

    @property
    def rule(self) -> str:
        """Name of the rule; of a group its name and those of its rules."""
        return self.comment.removeprefix("rule_").partition("_wildcards_")[0]

    def __str__(self) -> str:
        """Number, rule and state."""
        return f"{self.number} ({self.rule}, {self.state.lower()})"


def take_over(
    executor: Executor, jobs: Collection[Job], results: Path, forced: Collection[str]
) -> None:
    """Name the workflow's SLURM jobs after its results; adopt those that an earlier start left.

    A job is adopted where the new start would submit the same: rule and wildcards are the same,
    and no input has changed since. Others that would do the work of `jobs` are cancelled.

    Args:
        executor: the plugin's, before it submits anything.
        jobs: all jobs that are due on the cluster.
        results: folder of the results, locked by the caller.
        forced: rules and files that the user wants rebuilt in any case.

    Raises:
        UserError: a cancelled job does not end.
    """
    prefix = name_prefix(results)
    left = jobs_left(prefix)
    executor.run_uuid = f"{prefix}_{executor.run_uuid}"
    kept, ended = sort_out(left, {comment_of(job): job for job in jobs}, forced)
    alone = {job for comment, job in kept.items() if job.rule in executor.array_jobs}
    kept = {comment: job for comment, job in kept.items() if job not in alone}
    if kept:
        names = ", ".join(map(str, kept.values()))
        executor.logger.info(
            f"SLURM jobs of an earlier start are still there and are waited for: {names}. "
            "To end one: scancel NUMBER; a training saves its state before it ends."
        )
        executor.run_job = partial(_adopt_or_submit, executor, executor.run_job, kept)
    end([*ended, *alone], executor)


def name_prefix(results: Path) -> str:
    """Beginning of the names of all SLURM jobs that write to `results`."""
    place = hashlib.sha256(str(results.resolve()).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', results.name)[:30]}-{place}"


def jobs_left(prefix: str) -> list[Left]:
    """This user's SLURM jobs, in the queue or running, whose name begins with `prefix`."""
    form = "%i|%T|%V|%j|%k"
    answer = ask("squeue", "--noheader", "--user", getpass.getuser(), "--format", form)
    found = []
    for line in (answer or "").splitlines():
        number, state, submitted, name, comment = line.split("|", 4)
        if name.startswith(f"{prefix}_"):
            seconds = datetime.fromisoformat(submitted).timestamp()
            found.append(Left(number, state, seconds, comment))
    return found


def comment_of(job: Job) -> str:
    """The comment that the plugin gives a job's SLURM job."""
    wildcards = get_job_wildcards(job)
    return f"rule_{job.rule.name}_wildcards_{wildcards}" if wildcards else f"rule_{job.rule.name}"


def sort_out(
    left: Iterable[Left], due: Mapping[str, Job], forced: Collection[str]
) -> tuple[dict[str, Left], list[Left]]:
    """Which jobs of an earlier start are waited for, by comment, and which must end.

    Jobs of an array have the comment of its first, and those of a group none of their own.
    """
    left = list(left)
    counts = Counter(job.comment for job in left)
    rules = {job.rule.name for job in due.values()}
    groups = {str(job.group) for job in due.values() if job.group}
    kept, ended = {}, []
    for job in left:
        same = due.get(job.comment)
        is_single = counts[job.comment] == 1 and "_" not in job.number
        if same and is_single and not same.group and is_current(job, same, forced):
            kept[job.comment] = job
        elif job.rule in rules or any(job.rule.startswith(f"{group}_") for group in groups):
            ended.append(job)
    return kept, ended


def is_current(left: Left, job: Job, forced: Collection[str]) -> bool:
    """Whether a job that was submitted earlier makes what `job` would make."""
    if not {job.rule.name, *map(str, job.output)}.isdisjoint(forced):
        return False
    inputs = [Path(file) for file in job.input]
    return all(path.exists() and path.stat().st_mtime <= left.submitted + 1 for path in inputs)


def _adopt_or_submit(executor: Executor, submit: Submit, kept: dict[str, Left], job: Job) -> None:
    """Submit a job, unless the one that an earlier start left is still there."""
    found = None if job.is_group() else kept.pop(comment_of(job), None)
    try:
        if found and _adopt(executor, found, job):
            return
    except Exception as error:  # the plugin runs this in a thread, where it would be lost
        executor._report_job_error_threadsafe(SubmittedJobInfo(job), msg=str(error))
        return
    submit(job)


def _adopt(executor: Executor, found: Left, job: Job) -> bool:
    """Whether the plugin waits for `found` as if it had submitted it for `job`."""
    state = ask("squeue", "--noheader", "--jobs", found.number, "--format", "%T")
    if not state or not state.strip():  # it has ended since
        return False
    if not is_current(found, job, ()):  # an input was made anew since
        end([found], executor)
        return False
    ask("scontrol", "update", f"JobId={found.number}", f"Name={executor.run_uuid}")
    folder = executor.slurm_logdir / f"rule_{job.rule.name}" / get_job_wildcards(job)
    executor.logger.info(f"Job {job.jobid} is SLURM job {found.number} of an earlier start.")
    log = {"slurm_logfile": folder / f"{found.number}.log"}
    info = SubmittedJobInfo(job, external_jobid=found.number, aux=log)
    executor._report_job_submission_threadsafe(info)
    return True


def end(jobs: Collection[Left], executor: Executor) -> None:
    """Cancel SLURM jobs and wait until they have ended.

    Raises:
        UserError: they do not.
    """
    if not jobs:
        return
    executor.logger.warning(
        "SLURM jobs of an earlier start are cancelled, as this start does their work anew: "
        f"{', '.join(map(str, jobs))}"
    )
    numbers = [job.number for job in jobs]
    subprocess.run(["scancel", *numbers], check=False)
    for _ in range(ENDS_WITHIN // 2):
        if not ask("squeue", "--noheader", "--jobs", ",".join(numbers), "--format", "%i"):
            return
        time.sleep(2)
    raise UserError(
        f"SLURM jobs {', '.join(numbers)} of an earlier start do not end; "
        "see `squeue --me`, and start again when they are gone"
    )
