# Requests of jobs, and checks of the machine before the first job.


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
