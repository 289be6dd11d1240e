# The experiment's options, names as wildcard constraints, where things lie, and what jobs ask for.
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


# ---- images, latents and features: folders of shards, each written by a job of its own ------------------------


def images_folder(wildcards):
    """What commands are given for all images."""
    return str(PATHS.images)


def latents_folder(wildcards):
    """What commands are given for all latents."""
    return str(PATHS.latents)


def listings():
    """[the listing of the images], where several jobs write them."""
    return [PATHS.listing] if EXPERIMENT.data.shards > 1 and EXPERIMENT.data.source != "digits" else []


# ---- networks that the pipeline trains, when the config says `weights: trained` -------------------------------------


def trained(options, name):
    """[the network's file] when it is trained here, [] when its weights come from elsewhere."""
    return [PATHS.network(name)] if options.weights == "trained" else []


def tokenizer_weights():
    return trained(EXPERIMENT.tokenizer, "tokenizer")


def images_of_encoder(wildcards):
    """What an encoder is fitted on."""
    within_plan(TARGETS.require_fitted_encoder, wildcards.encoder)
    return PATHS.files(PATHS.images)


def images_of_network(wildcards):
    """What a further evaluation network is fitted on."""
    within_plan(TARGETS.require_extra_network, wildcards.extra)
    return PATHS.files(PATHS.images)


def encoder_weights(encoder):
    within_plan(TARGETS.require_encoder, encoder)
    return trained(EXPERIMENT.encoders[encoder], f"encoder-{encoder}")


def evaluation_weights():
    return trained(EXPERIMENT.evaluation.trained, "evaluation") if EXPERIMENT.evaluation.network == "trained" else []


def extra_weights():
    """{name: file} of the further evaluation networks that are trained here."""
    files = {name: trained(network, f"evaluation-{name}") for name, network in EXPERIMENT.evaluation.extra_networks.items()}
    return {name: paths[0] for name, paths in files.items() if paths}


def trained_networks():
    """All networks that are trained before the runs."""
    encoders = [path for encoder in EXPERIMENT.encoders for path in encoder_weights(encoder)]
    critics = [path for run in EXPERIMENT.runs for path in critics_of(run).values()]
    return sorted({*tokenizer_weights(), *encoders, *evaluation_weights(), *extra_weights().values(), *critics})


def weights_option(paths, name="weights"):
    """`--weights FILE` when there is one, else nothing."""
    return f"--{name} {shlex.quote(str(paths[0]))}" if paths else ""


# ---- runs --------------------------------------------------------------------------------------------------------


def previous_milestone(wildcards):
    """[the milestone before], which makes a run's jobs a chain."""
    within_plan(TARGETS.require_milestone, wildcards.run, wildcards.seed, wildcards.step)
    earlier = [step for step in EXPERIMENT.milestones_of(wildcards.run) if step < int(wildcards.step)]
    return [PATHS.milestone(wildcards.run, wildcards.seed, earlier[-1])] if earlier else []


def sampled_milestone(wildcards):
    """What images are sampled from."""
    within_plan(TARGETS.require_samples, wildcards.run, wildcards.seed, wildcards.step, wildcards.sampler)
    return PATHS.milestone(wildcards.run, wildcards.seed, wildcards.step)


def scored_samples(wildcards):
    """What is evaluated."""
    within_plan(TARGETS.require_samples, wildcards.run, wildcards.seed, wildcards.step, wildcards.sampler)
    return PATHS.samples(*wildcards)


def represented_milestone(wildcards):
    """What the representation is measured of."""
    within_plan(TARGETS.require_represented, wildcards.run, wildcards.seed, wildcards.step)
    return PATHS.milestone(wildcards.run, wildcards.seed, wildcards.step)


def aligned_encoders(run):
    """Encoders whose features a run is aligned to."""
    within_plan(TARGETS.require_run, run)
    return EXPERIMENT.alignments[EXPERIMENT.runs[run].alignment].encoders


def feature_files(encoders):
    """All files of the features of `encoders`."""
    for encoder in encoders:
        within_plan(TARGETS.require_encoder, encoder)
    return [file for encoder in encoders for file in PATHS.files(PATHS.features(encoder))]


def features_option(encoders):
    """`--features ENCODER=PLACE` for each of `encoders`."""
    return pairs_option("features", {encoder: PATHS.features(encoder) for encoder in encoders})


def critics_of(run):
    """{encoder: file} of the latent critics that a run's perceptual reward needs."""
    alignment = EXPERIMENT.alignments[EXPERIMENT.runs[run].alignment]
    encoders = alignment.encoders if alignment.needs_critic else []
    return {encoder: PATHS.network(f"critic-{encoder}") for encoder in encoders}


def pairs_option(name, files):
    """`--name KEY=FILE` for each of `files`."""
    return " ".join(f"--{name} {shlex.quote(f'{key}={path}')}" for key, path in files.items())


def import_options(checkpoint):
    """Options of `import-checkpoint` for an external checkpoint."""
    options, model = EXPERIMENT.checkpoints[checkpoint], EXPERIMENT.model_of(checkpoint)
    return f"--family {options.family} --weights {options.weights} --model {shlex.quote(model.name)} --heads {model.heads}"


# ---- what is collected for the report ----------------------------------------------------------------------------


def compared_encoders():
    """Encoders whose features hidden tokens are compared with."""
    chosen = EXPERIMENT.representation.encoders if EXPERIMENT.representation else []
    return list(EXPERIMENT.encoders) if chosen is None else chosen


def existing(option, path):
    """`path`, which `option` names; without such a file planning ends."""
    return path if Path(path).is_file() else refuse(f"{option}: there is no file {path}; correct the path")


def published_numbers(wildcards):
    """[the CSV of published numbers] if the config names one."""
    return [existing("report.published", EXPERIMENT.report.published)] if EXPERIMENT.report.published else []


def checkpoint_file(wildcards):
    """The official code's file, which is needed until it is imported."""
    within_plan(TARGETS.require_milestone, wildcards.checkpoint, wildcards.seed, wildcards.step)
    file = EXPERIMENT.checkpoints[wildcards.checkpoint].file
    imported = PATHS.milestone(wildcards.checkpoint, wildcards.seed, wildcards.step).exists()
    return file if imported else existing(f"checkpoints.{wildcards.checkpoint}.file", file)


def no_methods(wildcards):
    """Input of the method benchmark's targets where there is none."""
    refuse("methods: this config has no section `methods`; add one: --configfile config/mini.yaml config/methods.yaml")


# ---- what jobs ask for -------------------------------------------------------------------------------------------


def runtime(wildcards, attempt):
    """Minutes; each try gets more, up to the longest limit. Trainings, which resume, get `runtime_minutes` in each."""
    return min(RESOURCES.runtime_minutes * attempt, RESOURCES.max_runtime_minutes or RESOURCES.runtime_minutes)


def short_runtime(wildcards, attempt):
    """Minutes of a job that reads results and draws."""
    return min(60 * attempt, RESOURCES.runtime_minutes)


CPU_MEMORY = min(RESOURCES.cpu_memory_mb, RESOURCES.memory_mb)


def import_memory(wildcards, input):
    """Megabytes of a job that imports a checkpoint: its file, which is mapped, and its weights in fp32."""
    size = Path(input[0]).stat().st_size if Path(input[0]).exists() else 0
    return max(CPU_MEMORY, 1_000 + 2 * size // 10**6)


def devices(count):
    """GPUs that a job computes on: `count`, where the config lets jobs have that many."""
    return min(GPUS, count)


def gpu(count):
    """How a job asks for them: as `--gpus=N`; locally, they are counted by this name, too."""
    return 0 if RESOURCES.gres else devices(count)


def gres(count):
    """The same as `--gres=NAME:N`, for clusters that know nothing else."""
    return f"{RESOURCES.gres}:{devices(count)}" if RESOURCES.gres and devices(count) else ""


def check_machine():
    """See that the jobs that are due find their GPUs and a compiler on this machine, before the first of them; elsewhere each job sees for itself."""
    if not workflow.local_exec or workflow.touch:
        return
    due = list(workflow.dag.needrun_jobs())
    try:
        if DEVICE == "cuda":
            limit = workflow.global_resources.get("gpu")
            require_gpus(max((job.resources.get("devices", 0) for job in due), default=0), getattr(limit, "value", limit))
        compiling = {"train": EXPERIMENT.training.compile, "sample": any(sampler.compile for sampler in EXPERIMENT.samplers.values())}
        if any(compiling.get(job.rule.name) for job in due) and not workflow.deployment_settings.deployment_method:
            run_check("check-compiler", "--device", DEVICE)
    except UserError as error:
        refuse(error)


LOADING = {"encode_latents", "encode_features", "describe_features", "reference", "sample", "evaluate", "import_checkpoint"}  # weights made elsewhere


def check_weights():
    """Load, and fetch where they are missing, the weights that the config names, before the first job rather than days later."""
    due = any(job.rule.name in LOADING for job in workflow.dag.needrun_jobs())
    if not due or workflow.touch or workflow.deployment_settings.deployment_method or not any(weight_checks(EXPERIMENT, fetch=True)):
        return
    try:
        run_check("check", "--weights-only", "--fetch", "--config", str(PLAN.path))
    except UserError as error:
        refuse(error)
