"""Requests of a workflow's jobs to SLURM, checked before the first job is submitted."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from snakemake_executor_plugin_slurm import Executor
from snakemake_executor_plugin_slurm.accounts import validate_account
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_interface_common.exceptions import WorkflowError

from vrpo.errors import UserError
from vrpo.runtime.queue import ask

if TYPE_CHECKING:
    from logging import Logger

    from snakemake.jobs import GroupJob, Job

OUT_OF_SERVICE = "down,drained,draining,fail,maint,reserved"


def check_jobs(executor: Executor, jobs: Iterable[Job | GroupJob]) -> None:
    """See that SLURM can run each of `jobs`, as they ask for accounts, partitions and amounts.

    A group asks for the memory of its largest job, and for the time of all.

    SLURM itself accepts a time above the partition's limit, and the job waits for ever.

    Raises:
        UserError: it cannot; names the rule, its request and the reason.
    """
    checked = set()
    for job in jobs:
        try:
            request = _request(executor, job)
        except (WorkflowError, OSError, StopIteration) as error:
            raise UserError(f"{name_of(job)}: {' '.join(str(error).split())}") from None
        if request in checked or "<TBD>" in request:  # made from files that are not there yet
            continue
        checked.add(request)
        beyond = _beyond_limit(job, request)
        refusal = beyond or _refusal(request)
        if refusal and not beyond and _out_of_service(request):
            executor.logger.warning(
                f"{name_of(job)}: SLURM cannot run {request} now ({refusal}), "
                "perhaps because nodes are out of service; the job may wait for long"
            )
        elif refusal:
            raise UserError(
                f"{name_of(job)}: SLURM cannot run a job with {request} ({refusal}); change the "
                f"profile, or set --set-resources {name_of(job)}:NAME=VALUE"
            )


def name_of(job: Job | GroupJob) -> str:
    """Name of a job's rule, or of its group."""
    return job.groupid if job.is_group() else job.rule.name


def _request(executor: Executor, job: Job | GroupJob) -> str:
    """The options of sbatch for a job, as the plugin writes them."""
    account = str(job.resources.get("slurm_account") or "")
    if account:
        _check_account(account, executor.logger)
    params = {
        "run_uuid": "check",
        "slurm_logfile": "/dev/null",
        "comment_str": "check",
        "account": f"-A {shlex.quote(account)}" if account else "",
        "partition": executor.get_partition_arg(job),
        "workdir": None,
    }
    call = get_submit_command(job, params, settings=executor.workflow.executor_settings)
    words = shlex.split(call + set_gres_string(job))
    return shlex.join(words[words.index("--comment") + 2 :])


def _check_account(account: str, logger: Logger) -> None:
    try:
        for name in re.split(r"[,\s]+", account):
            validate_account(name, logger)
    except WorkflowError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"slurm_account={account}: SLURM does not know it ({reason}); correct it in the "
            "profile or in --default-resources, or leave it out"
        ) from None


def _partition(request: str) -> str:
    words = shlex.split(request)
    return words[words.index("-p") + 1] if "-p" in words else ""


def _refusal(request: str) -> str | None:
    """Why SLURM would refuse a job; None if it would not."""
    command = ["sbatch", "--test-only", *shlex.split(request), "--wrap", "true"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in result.stderr.splitlines() if line.strip()]
    return said[-1].partition(": ")[2] or said[-1] if result.returncode and said else None


def _beyond_limit(job: Job | GroupJob, request: str) -> str | None:
    """Why a job's time is above its partition's limit; None if it is not."""
    answer = ask("sinfo", "--noheader", "--partition", _partition(request), "--format", "%l")
    limits = [limit_minutes(line) for line in (answer or "").split()]
    asked: Any = job.resources.get("runtime")
    if not limits or not isinstance(asked, int) or asked <= max(limits):
        return None
    return f"runtime={asked} is above the partition's limit of {max(limits):g} minutes"


def limit_minutes(text: str) -> float:
    """Minutes of a time limit as `sinfo` prints it (`1-12:00:00`, `30:00`, `infinite`)."""
    days, _, clock = text.rpartition("-")
    if not re.fullmatch(r"[\d:]+", clock):
        return math.inf
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return 24 * 60 * int(days or 0) + seconds / 60


def _out_of_service(request: str) -> bool:
    """Whether nodes of the partition are drained or down, so that a test proves nothing."""
    partition = _partition(request)
    answer = ask("sinfo", "--noheader", "-p", partition, "--states", OUT_OF_SERVICE, "-o", "%D")
    return any(int(count) for count in (answer or "").split() if count.isdecimal())
