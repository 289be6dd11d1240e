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
from vrpo.workflow import KEEP
from vrpo.workflow.class_checks import class_checks
from vrpo.workflow.environment import JOBS_PATH, run_check
from vrpo.workflow.preflight import weight_checks
from vrpo.workflow.requests import asked_gpus, own_rules, require_queue
from vrpo.workflow.restore import keep_results

if TYPE_CHECKING:
    from snakemake.common import Rules
    from snakemake.rules import Rule
    from snakemake.workflow import Workflow

LOADING = {  # rules that load weights made elsewhere
    *("encode_latents", "encode_features", "describe_features", "reference"),
    *("sample", "sample_guided", "image_tokens", "evaluate", "import_checkpoint"),
}
IMPORTS = {  # what jobs of short stages import, so that they can start warm
    "train": ("vrpo.training.run",),
    "sample": ("vrpo.sampling.generate", "diffusers.models.autoencoders.autoencoder_kl"),
    "sample_guided": ("vrpo.sampling.generate", "diffusers.models.autoencoders.autoencoder_kl"),
    "evaluate": ("vrpo.metrics.evaluate",),
    "representation_of_run": ("vrpo.metrics.representation",),
}
FEWEST = 3  # jobs that are worth a warm process
DEFAULT_RATE = 100, 1  # jobs and seconds of `--max-jobs-per-timespan`
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

    A workflow that another one uses as a module gets its `config` from that one, in which there may
    be several. Jobs on a cluster read the plan that the main process published.

    Raises:
        UserError: the config is wrong, or the module has a prefix.
    """
    if workflow.modifier.skip_configfile:
        _require_own_paths(workflow)
        return Plan.of(parse_experiment(config, "config"))
    if not workflow.is_main_process and (published := Plan.published(os.environ)):
        return published
    files, assignments = workflow.configfiles, workflow.config_settings.config_args or []
    sources = [*map(str, files), *(["--config"] if assignments else [])]
    plan = Plan.of(parse_experiment(merge_configs(files, assignments), " + ".join(sources)))
    if workflow.is_main_process:
        plan.publish(os.environ)
    return plan


def _require_own_paths(workflow: Workflow) -> None:
    """Refuse `prefix` and `replace_prefix`, which change only some of a rule's paths."""
    path = "results/x"
    if workflow.modifier.modify_path(path) != path:
        raise UserError(
            f"module {workflow.modifier.namespace}: `prefix` and `replace_prefix` do not reach all "
            "paths; set the option `results` in the module's config instead"
        )


@refusing
def start(workflow: Workflow, rules: Rules, plan: Plan) -> None:
    """Check the machine, lock the results, write the plan, keep results, check weights and classes.

    The kernel drops the lock with the process.
    """
    names = {rule: name for name, rule in own_rules(rules).items()}
    jobs = [names[job.rule] for job in workflow.dag.needrun_jobs() if job.rule in names]
    due = {name: rule for rule, name in names.items() if name in jobs}
    forced = _forced(workflow, names)
    in_environments = bool(workflow.deployment_settings.deployment_method)
    require_queue(workflow, due.values())
    if workflow.local_exec and not workflow.touch:
        _check_machine(workflow, plan.experiment, due, in_environments)
        leave_out_default_rate(workflow)
    results = Paths.of(plan.experiment).folder
    LOCKS.enter_context(exclusive_lock(results / ".lock", "a workflow on these results"))
    if not workflow.local_exec:
        _join_queue(workflow, results, forced)
    plan.write()
    os.environ[KEEP] = "1"
    keep_results(results, forced)
    if workflow.touch or in_environments:
        return
    loading = not LOADING.isdisjoint(due) and any(weight_checks(plan.experiment, fetch=True))
    training = "train" in due and any(class_checks(plan.experiment))
    _start_warm(workflow, plan.experiment, jobs)
    if loading or training:
        run_check("check", "--weights-only", "--fetch", "--config", str(plan.path))


def _start_warm(workflow: Workflow, experiment: ExperimentConfig, due: list[str]) -> None:
    """Let several jobs on this machine's CPU share their imports."""
    here = workflow.local_exec and experiment.resources.device == "cpu"
    short = [name for name in due if name in IMPORTS]
    if here and len(short) >= FEWEST:
        modules = dict.fromkeys(module for name in sorted({*short}) for module in IMPORTS[name])
        start_warm_process(
            ["vrpo.cli", *modules], experiment.resources.threads, os.environ[JOBS_PATH]
        )


def leave_out_default_rate(workflow: Workflow) -> None:
    """Let Snakemake select jobs when one ends, without its default limit of 100 jobs a second.

    With a limit, version 9.27 selects again a second after each selection, for as long as jobs are
    ready, and each job that ends begins another such chain: hundreds of jobs take half a core.
    """
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == DEFAULT_RATE:
        workflow.scheduler.job_rate_limiter = None


def _join_queue(workflow: Workflow, results: Path, forced: set[str]) -> None:
    """Check what jobs ask SLURM for, and take over the jobs that an earlier start left there."""
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    executor = workflow.scheduler.get_executor(jobs[0]) if jobs else None
    if type(executor).__module__ != "snakemake_executor_plugin_slurm":
        return
    from vrpo.workflow.held import release_held
    from vrpo.workflow.slurm import check_jobs
    from vrpo.workflow.takeover import take_over

    settings = workflow.executor_settings
    if settings.no_account:  # which the plugin declares and never reads
        executor._fallback_account_arg = ""
    if settings.requeue:
        os.environ[MAY_REQUEUE] = "1"
    check_jobs(executor, {workflow.dag.get_job_group(job) or job for job in jobs})
    take_over(executor, jobs, results, forced)
    release_held(executor)


def _check_machine(
    workflow: Workflow, experiment: ExperimentConfig, due: dict[str, Rule], in_environments: bool
) -> None:
    """See that the jobs that are due find their GPUs and a compiler on this machine."""
    device = experiment.resources.device
    wanted = max((asked_gpus(rule) for rule in due.values()), default=0)
    if device == "cuda" or wanted > 1:
        limit = workflow.global_resources.get("gpu")
        require_gpus(wanted, getattr(limit, "value", limit))
    sampling = any(sampler.compile for sampler in experiment.samplers.values())
    compiling = {"train": experiment.training.compile}
    compiling |= dict.fromkeys(("sample", "sample_guided"), sampling)
    if any(compiling.get(name) for name in due) and not in_environments:
        run_check("check-compiler", "--device", device)


def _forced(workflow: Workflow, names: Mapping[Rule, str]) -> set[str]:
    """Rules and files that the command line forces; rules by both of their names."""
    settings = workflow.dag_settings
    given = {rule.name: name for rule, name in names.items()}
    forced = {*settings.forcerun, *(settings.targets if settings.forcetargets else ())}
    forced |= {*given} if settings.forceall else set()
    return {*forced, *(given[name] for name in forced if name in given)}


def missing_data(experiment: ExperimentConfig) -> str | None:
    """A warning where the training images are missing."""
    root, source = experiment.data.root, experiment.data.source
    if not root or Path(root).exists():
        return None
    remedy = f"put them there (source `{source}`), or name their place"
    example = "--config data='{root: /path/to/train}'"
    return f"data.root: no training images at {root}; {remedy}: {example}"
