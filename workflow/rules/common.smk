# The experiment, its paths, names as wildcard constraints, and the start and end of a workflow.
import contextlib
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.logging import logger

ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # also where Snakemake's own environment does not have the package

from vrpo.config import merge_configs, parse_experiment
from vrpo.config.command_line import check_command_line
from vrpo.errors import UserError
from vrpo.files import exclusive_lock
from vrpo.launch import require_gpus, requested_gpus, run_check, use_environment_of
from vrpo.plan import jobs
from vrpo.plan.paths import Paths
from vrpo.plan.resolved import Plan
from vrpo.plan.targets import Targets
from vrpo.preflight import weight_checks
from vrpo.restore import KEEP, keep_results, release_results

use_environment_of(sys.executable)
os.environ[KEEP] = "1"
os.environ.update(VRPO_PATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))  # conda environments lose PYTHONPATH


def refuse(error):
    """End with the error's line alone; an exception would bring a traceback."""
    print(f"vrpo: error: {error}", file=sys.stderr)
    sys.exit(2)


def planned_experiment():
    """The experiment that a workflow hands to this one as a module, or else of the files and `--config`, which Snakemake itself reads less strictly."""
    if workflow.modifier.skip_configfile:
        return parse_experiment(config, "config")
    files, assignments = workflow.configfiles, workflow.config_settings.config_args or []
    sources = [*map(str, files), "--config"] if assignments else map(str, files)
    return parse_experiment(merge_configs(files, assignments), " + ".join(sources))


try:
    if workflow.is_main_process:
        PLAN = Plan.of(planned_experiment())
        PLAN.publish(os.environ)
    else:
        PLAN = Plan.published(os.environ) or Plan.of(planned_experiment())
    EXPERIMENT = PLAN.experiment
    RESOURCES = EXPERIMENT.resources
    GPUS, DEVICE = requested_gpus(RESOURCES.device, RESOURCES.gpus, stated="gpus" in RESOURCES.model_fields_set)
except UserError as error:
    refuse(error)

if workflow.is_main_process and EXPERIMENT.data.root and not Path(EXPERIMENT.data.root).exists():
    logger.warning(
        f"data.root: no training images at {EXPERIMENT.data.root}; put them there (source `{EXPERIMENT.data.source}`), or name their place: "
        "--config data='{root: /path/to/train}'"
    )

PATHS = Paths.of(EXPERIMENT)
RESULTS = PATHS.folder
TARGETS = Targets(EXPERIMENT)
TORCH_ENV = "../../envs/vrpo.yaml"
REPORT_ENV = "../../envs/report.yaml"


def one_of(names):
    """A wildcard's constraint: exactly these names."""
    return "|".join(map(re.escape, names)) or "none"


# ---- start and end: what is written before the first job, under the results' lock ----------------------------------

LOCKS = contextlib.ExitStack()


def start():
    """Let no second workflow write the same results, write the plan, and keep what is there. The kernel drops the lock with the process."""
    try:
        LOCKS.enter_context(exclusive_lock(RESULTS / ".lock", "a workflow on these results"))
        PLAN.write()
        keep_results(RESULTS, forced())
    except UserError as error:
        refuse(error)


def forced():
    """Rules and files that the command line wants made again."""
    settings = workflow.dag_settings
    if settings.forceall:
        return {rule.name for rule in workflow.rules}
    return {*settings.forcerun, *(settings.targets if settings.forcetargets else ())}


def planned(wildcards, input):
    """`--planned FILE=HASH` for each resolved config among a job's inputs: the command sees whether it is still the planned one."""
    return " ".join(f"--planned {shlex.quote(f'{path}={PLAN.digest(Path(path))}')}" for path in input if Path(path) in PLAN.texts)


def force_where_stale(wildcards):
    """No input; a config on the disk that is not the planned one is written again, whatever its times and Snakemake's records say."""
    path = RESULTS / f"{wildcards.resolved}.yaml"
    if workflow.is_main_process and PLAN.is_stale(path):
        workflow.dag.forcefiles.add(str(path))
    return []


wildcard_constraints:  # names that are not in the config match too, so that `within_plan` says what is wrong with a target
    run=r"[^/]+",
    checkpoint=one_of(EXPERIMENT.checkpoints),
    sampler=r"[^/]+",
    encoder=r"[^/]+",
    extra=r"[^/]+",
    seed=r"[^/]+",
    shard=one_of([f"{shard:05d}" for shard in range(EXPERIMENT.data.shards)]),
    step=r"[^/.]+",


def within_plan(require, *names):
    """End planning unless the names that a target has are those of something that the experiment makes."""
    try:
        require(*names)
    except UserError as error:
        refuse(error)
