# The experiment, its paths and inputs, and names as wildcard constraints.
import os
import re
import sys
from pathlib import Path

from snakemake.logging import logger

ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).resolve().parents[1]
if (ROOT / "vrpo").is_dir():  # not where Snakemake reads the rules from another host
    sys.path.insert(0, str(ROOT))
try:
    import vrpo.workflow.hooks
except ModuleNotFoundError as missing:
    NAME, REMEDY = missing.name.split(".")[0], "use the environment of envs/snakemake.yaml"
    if NAME == "vrpo":
        REMEDY = "`pip install` the repository there, or use the Snakefile of a clone"
    sys.exit(f"vrpo: error: {NAME}: not installed in {sys.prefix}; {REMEDY}")

from vrpo.config.command_line import check_command_line, keep_requests_of_profiles
from vrpo.plan import jobs
from vrpo.plan.inputs import Inputs, flag, flags, import_memory
from vrpo.plan.paths import Paths
from vrpo.workflow.restore import release_results
from vrpo.workflow.environment import JOBS_PATH, jobs_path, use_environment_of
from vrpo.workflow.hooks import Refusing, missing_data, plan_of, refusing, start
from vrpo.workflow.requests import check_requests

refusing(use_environment_of)(sys.executable)
os.environ[JOBS_PATH] = jobs_path(ROOT)

if workflow.is_main_process:
    keep_requests_of_profiles(workflow.resource_settings)
else:  # SLURM's job of figures, tables and report has what one of them needs; profiles/slurm
    workflow.register_resource("drawing", 1)
PLAN = plan_of(workflow, config)
EXPERIMENT = PLAN.experiment
PATHS = Paths.of(EXPERIMENT)
INPUTS = Refusing(Inputs(EXPERIMENT))
TORCH_ENV = "../../envs/vrpo.yaml"
REPORT_ENV = "../../envs/report.yaml"
DEVICE = EXPERIMENT.resources.device
GPU = 0 if DEVICE == "cpu" else 1  # of a job that runs networks; more: --set-resources RULE:gpu=N
THREADS = EXPERIMENT.resources.threads

if workflow.is_main_process and missing_data(EXPERIMENT):
    logger.warning(missing_data(EXPERIMENT))


def images_folder(wildcards):
    """The folder of all images, as an argument."""
    return str(PATHS.images)


def latents_folder(wildcards):
    """The folder of all latents, as an argument."""
    return str(PATHS.latents)


def one_of(names):
    """A wildcard's constraint: exactly these names."""
    return "|".join(map(re.escape, names)) or "none"


def force_where_stale(wildcards):
    """No input; forces a config that differs from the plan, whatever its time of change."""
    path = PATHS.folder / f"{wildcards.resolved}.yaml"
    if workflow.is_main_process and PLAN.is_stale(path):
        workflow.dag.forcefiles.add(str(path))
    return []


wildcard_constraints:
    # unknown names match too, so that `Inputs` says what is wrong with a target
    run=r"[^/]+",
    checkpoint=one_of(EXPERIMENT.checkpoints),
    network=r"(?!critic-)[^/]+",
    sampler=r"[^/]+",
    encoder=r"[^/]+",
    seed=r"[^/]+",
    shard=one_of([f"{shard:05d}" for shard in range(EXPERIMENT.data.shards)]),
    step=r"[^/.]+",
