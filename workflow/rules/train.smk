# One job per milestone; each continues from the state that the run's last job left beside its weights.
# State and train.csv are undeclared, so that Snakemake never deletes them: a killed training goes on where it was.


rule train:
    input:
        config=PATHS.run_config("{run}", "{seed}"),
        latents=PATHS.files(PATHS.latents),
        features=lambda wildcards: feature_files(aligned_encoders(wildcards.run)),
        critics=lambda wildcards: list(critics_of(wildcards.run).values()),
        previous=previous_milestone,
    output:
        PATHS.milestone("{run}", "{seed}", "{step}"),
    log:
        PATHS.log("train/{run}/seed{seed}/step{step}"),
    wildcard_constraints:
        run=f"(?!({one_of(EXPERIMENT.checkpoints)})/)[^/]+",
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=RESOURCES.runtime_minutes,
        gpu=gpu(GPUS),
        gres=gres(GPUS),
        devices=devices(GPUS),
        device=DEVICE,
        nodes=1,
        save_minutes=str(RESOURCES.save_minutes),  # resources, not params: changing them retrains nothing
        log_every=RESOURCES.log_every,
        max_skipped=RESOURCES.max_skipped,
    params:
        planned=planned,
        steps=lambda wildcards: int(wildcards.step),
        latents=latents_folder,
        features=lambda wildcards: features_option(aligned_encoders(wildcards.run)),
        critics=lambda wildcards: pairs_option("critic", critics_of(wildcards.run)),
    shell:
        # only a queue ends jobs, so only there a training must end before its time
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} train --config {input.config:q} --latents {params.latents:q} {params.features} {params.critics}"
        " --milestone {params.steps} --output {output:q} ${{SLURM_JOB_ID:+--max-minutes {resources.runtime}}}"
        " --save-minutes {resources.save_minutes} --log-every {resources.log_every} --max-skipped {resources.max_skipped}"
        " --device {resources.device} --threads {threads} &> {log:q}"
