"""GPUs and nodes that rules ask for, checked while the workflow is planned."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vrpo.config.experiment import ExperimentConfig
from vrpo.errors import UserError

if TYPE_CHECKING:
    from snakemake.common import Rules
    from snakemake.rules import Rule
    from snakemake.workflow import Workflow


def asked_gpus(rule: Rule) -> int:
    """GPUs that a rule asks for, before Snakemake cuts them to what `--resources` allows.

    Raises:
        UserError: it asks for something that is no number.
    """
    return _number(rule, "gpu", "GPUs", 0)


def asked_nodes(rule: Rule) -> int:
    """Nodes that a rule asks for.

    Raises:
        UserError: it asks for something that is no number.
    """
    return _number(rule, "nodes", "nodes", 1)


def _number(rule: Rule, name: str, what: str, least: int) -> int:
    asked = rule.resources.get(name) or least
    if hasattr(asked, "is_evaluable"):
        asked = asked.raw if asked.is_evaluable() else asked.value or least
    if not isinstance(asked, int) or asked < least:
        raise UserError(f"{rule.name}:{name}={asked}: is no number of {what}; give {least} or more")
    return asked


def own_rules(rules: Rules) -> dict[str, Rule]:
    """{name in this workflow's files: rule}, as a workflow that uses it may rename its rules."""
    return {name: proxy.rule for name, proxy in rules._rules.items()}


def check_requests(workflow: Workflow, rules: Rules, experiment: ExperimentConfig) -> None:
    """Check GPUs and nodes, and have trainings on several nodes ask for them as SLURM needs it.

    Raises:
        UserError: they are no numbers, do not go with the device, or do not divide the batch; or
            another rule than `train` asks for nodes.
    """
    used, device = {*workflow.rules}, experiment.resources.device
    own = {name: rule for name, rule in own_rules(rules).items() if rule in used}
    train = own["train"].name if "train" in own else "train"
    for name, rule in own.items():
        gpus, nodes, on_cpu = asked_gpus(rule), asked_nodes(rule), device == "cpu"
        if gpus and on_cpu:
            raise UserError(
                f"{rule.name}:gpu={gpus}: the config has `resources: {{device: cpu}}`; "
                f"change it, or set --set-resources {rule.name}:gpu=0"
            )
        if name == "train":
            _check_batch(train, gpus or (0 if on_cpu else _gres_gpus(rule)), nodes, experiment)
            if nodes > 1:
                _spread(rule, gpus, nodes)
        elif nodes > 1:
            raise UserError(
                f"{rule.name}:nodes={nodes}: only {train} runs on several nodes; "
                f"set --set-resources {rule.name}:nodes=1"
            )


def _gres_gpus(rule: Rule) -> int:
    """GPUs of a node that a rule asks for by `gres`."""
    asked = rule.resources.get("gres")
    found = re.fullmatch(r"gpu(?::[^:]+)??(?::(\d+))?", str(getattr(asked, "raw", asked) or ""))
    return int(found[1] or 1) if found else 0


def _check_batch(train: str, gpus: int, nodes: int, experiment: ExperimentConfig) -> None:
    """See that `gpus` of each of `nodes` can share the batch of every run."""
    ranks = nodes * max(gpus, 1)
    for name, run in experiment.runs.items():
        group = experiment.alignments[run.alignment].group
        try:
            experiment.training.micro_batch(ranks, group)
        except ValueError as error:
            fitting = [each for each in range(1, gpus) if _divides(experiment, nodes * each)]
            remedy, asked = f"{train}:gpu=N with N in {fitting}", f"{train}:gpu={gpus}"
            if nodes > 1:
                asked = f"{train}:nodes={nodes} {asked}"
                remedy = remedy if fitting else f"{train}:nodes=1"
            raise UserError(
                f"{asked}: {error}, or --set-resources {remedy} (run `{name}`)"
            ) from None


def _divides(experiment: ExperimentConfig, ranks: int) -> bool:
    """Whether `ranks` GPUs can share the batch of every run."""
    groups = {experiment.alignments[run.alignment].group for run in experiment.runs.values()}
    try:
        return all(experiment.training.micro_batch(ranks, group) for group in groups)
    except ValueError:
        return False


def _spread(rule: Rule, gpus: int, nodes: int) -> None:
    """Ask SLURM for `gpus` on each of `nodes`, in a job whose command calls `srun` itself.

    The plugin's `gpu` is a job's total, which SLURM may divide unevenly; `gres` is a node's.
    """
    rule.resources.update({"mpi": "srun", "tasks": nodes, "tasks_per_gpu": 0})
    if gpus:
        model = rule.resources.get("gpu_model")
        kind = [name] if (name := getattr(model, "raw", model)) else []
        rule.resources.update({"gpu": 0, "gres": ":".join(["gpu", *kind, str(gpus)])})
        if kind:
            rule.resources.update({"gpu_model": ""})


def require_queue(workflow: Workflow, due: Iterable[Rule]) -> None:
    """See that rules that ask for several nodes run on SLURM.

    Raises:
        UserError: they do not.
    """
    if workflow.executor_plugin.name == "slurm":
        return
    for rule in due:
        if (nodes := asked_nodes(rule)) > 1:
            raise UserError(
                f"{rule.name}:nodes={nodes}: several nodes need SLURM; "
                f"use --workflow-profile slurm, or set --set-resources {rule.name}:nodes=1"
            )
