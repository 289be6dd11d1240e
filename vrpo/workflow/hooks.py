"""The Snakemake workflow's planning, start and end, as far as rules do not say it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrpo.config import merge_configs, parse_experiment
from vrpo.config.experiment import ExperimentConfig
from vrpo.errors import UserError, refuse
from vrpo.files import exclusive_lock
from vrpo.plan.paths import Paths
from vrpo.plan.resolved import Plan
from vrpo.runtime.launch import require_gpus
from vrpo.runtime.queue import MAY_REQUEUE
from vrpo.runtime.warm import start_warm_process
from vrpo.workflow.environment import JOBS_PATH, run_check
from vrpo.workflow.preflight import class_checks, weight_checks
from vrpo.workflow.requests import asked_gpus, require_queue
from vrpo.workflow.restore import keep_results

if TYPE_CHECKING:
    from snakemake.rules import Rule
    from snakemake.workflow import Workflow

LOADING = {  # rules that load weights made elsewhere
    *("encode_latents", "encode_features", "describe_features", "reference"),
    *("sample", "evaluate", "import_checkpoint"),
}
IMPORTS = {  # what jobs of short stages import, so that they can start warm
    "train": ("vrpo.training.run",),
    "sample": ("vrpo.sampling.generate", "diffusers.models.autoencoders.autoencoder_kl"),
    "evaluate": ("vrpo.metrics.evaluate",),
    "representation_of_run": ("vrpo.metrics.representation",),
}
FEWEST = 3  # jobs that are worth a warm process
LOCKS = contextlib.ExitStack()


class Refusing:
    """An object whose user errors end planning with their line."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = refusing(getattr)(self._inner, name)
        return refusing(value) if callable(value) else value


def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose user errors end planning with their line."""

    def call(*arguments: object) -> Any:
        try:
            return function(*arguments)
        except UserError as error:
            refuse(error)

    return call


@refusing
def plan_of(workflow: Workflow, config: Mapping[str, Any]) -> Plan:
    """The plan of a workflow's config files and `--config`, which Snakemake reads less strictly.

    A workflow that another one uses as a module gets its `config` from that one. Jobs on a cluster
    read the plan that the main process published.
    """
    if not workflow.is_main_process and (published := Plan.published(os.environ)):
        return published
    if workflow.modifier.skip_configfile:
        plan = Plan.of(parse_experiment(config, "config"))
    else:
        files, assignments = workflow.configfiles, workflow.config_settings.config_args or []
        sources = [*map(str, files), *(["--config"] if assignments else [])]
        plan = Plan.of(parse_experiment(merge_configs(files, assignments), " + ".join(sources)))
    if workflow.is_main_process:
        plan.publish(os.environ)
    return plan


@refusing
def start(workflow: Workflow, plan: Plan) -> None:
    """Check the machine, lock the results, write the plan, keep results, check weights and classes.

    The kernel drops the lock with the process.
    """
    jobs = [job.rule for job in workflow.dag.needrun_jobs()]
    due = {*jobs}
    in_environments = bool(workflow.deployment_settings.deployment_method)
    require_queue(workflow, due)
    if workflow.local_exec and not workflow.touch:
        _check_machine(workflow, plan.experiment, due, in_environments)
    results = Paths.of(plan.experiment).folder
    LOCKS.enter_context(exclusive_lock(results / ".lock", "a workflow on these results"))
    if not workflow.local_exec:
        _join_queue(workflow, results)
    plan.write()
    keep_results(results, _forced(workflow))
    if workflow.touch or in_environments:
        return
    loading = any(rule.name in LOADING for rule in due) and any(
        weight_checks(plan.experiment, fetch=True)
    )
    training = any(rule.name == "train" for rule in due) and any(class_checks(plan.experiment))
    _start_warm(workflow, plan.experiment, [rule.name for rule in jobs])
    if loading or training:
        run_check("check", "--weights-only", "--fetch", "--config", str(plan.path))


def _start_warm(workflow: Workflow, experiment: ExperimentConfig, due: list[str]) -> None:
    """Let several jobs on this machine's CPU share their imports."""
    here = workflow.local_exec and experiment.resources.device == "cpu"
    short = [name for name in due if name in IMPORTS]
    if here and len(short) >= FEWEST:
        modules = dict.fromkeys(module for name in sorted({*short}) for module in IMPORTS[name])
        start_warm_process([*modules], experiment.resources.threads, os.environ[JOBS_PATH])


def _join_queue(workflow: Workflow, results: Path) -> None:
    """Check what jobs ask SLURM for, and take over the jobs that an earlier start left there."""
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    executor = workflow.scheduler.get_executor(jobs[0]) if jobs else None
    if type(executor).__module__ != "snakemake_executor_plugin_slurm":
        return
    from vrpo.workflow.slurm import check_jobs
    from vrpo.workflow.takeover import take_over

    settings = workflow.executor_settings
    if settings.no_account:  # which the plugin declares and never reads
        executor._fallback_account_arg = ""
    if settings.requeue:
        os.environ[MAY_REQUEUE] = "1"
    check_jobs(executor, {workflow.dag.get_job_group(job) or job for job in jobs})
    take_over(executor, jobs, results, _forced(workflow))


def _check_machine(
    workflow: Workflow, experiment: ExperimentConfig, due: set[Rule], in_environments: bool
) -> None:
    """See that the jobs that are due find their GPUs and a compiler on this machine."""
    device = experiment.resources.device
    wanted = max((asked_gpus(rule) for rule in due), default=0)
    if device == "cuda" or wanted > 1:
        limit = workflow.global_resources.get("gpu")
        require_gpus(wanted, getattr(limit, "value", limit))
    sampling = any(sampler.compile for sampler in experiment.samplers.values())
    compiling = {"train": experiment.training.compile, "sample": sampling}
    if any(compiling.get(rule.name) for rule in due) and not in_environments:
        run_check("check-compiler", "--device", device)


def _forced(workflow: Workflow) -> set[str]:
    """Rules and files that the command line forces."""
    settings = workflow.dag_settings
    if settings.forceall:
        return {rule.name for rule in workflow.rules}
    return {*settings.forcerun, *(settings.targets if settings.forcetargets else ())}


def missing_data(experiment: ExperimentConfig) -> str | None:
    """A warning where the training images are missing."""
    root, source = experiment.data.root, experiment.data.source
    if not root or Path(root).exists():
        return None
    remedy = f"put them there (source `{source}`), or name their place"
    example = "--config data='{root: /path/to/train}'"
    return f"data.root: no training images at {root}; {remedy}: {example}"
