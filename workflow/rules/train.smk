# One job per milestone; each resumes from the state that the run's last job left.
# State and train.csv are undeclared, so that Snakemake never deletes them.


rule train:
    input:
        config=PATHS.run_config("{run}", "{seed}"),
        latents=INPUTS.latents,
        features=lambda wildcards: INPUTS.features(INPUTS.encoders_of(wildcards.run)),
        critics=lambda wildcards: list(INPUTS.critics(wildcards.run).values()),
        previous=lambda wildcards: INPUTS.previous(wildcards.run, wildcards.seed, wildcards.step),
        tracking=ancient(PATHS.config("tracking")),  # changes no result, nor what it needs
        tokenizer=ancient(PATHS.config("tokenizer")),
        decoder=ancient(INPUTS.tokenizer),
    output:
        PATHS.milestone("{run}", "{seed}", "{step}"),
    log:
        PATHS.log("train/{run}/seed{seed}/step{step}"),
    wildcard_constraints:
        run=f"(?!({one_of(EXPERIMENT.checkpoints)})/)[^/]+",
    conda:
        TORCH_ENV
    threads: THREADS
    resources:  # not params: changing them retrains nothing
        gpu=GPU,
        device=DEVICE,
        nodes=1,
        save_minutes=str(EXPERIMENT.resources.save_minutes),
        log_every=EXPERIMENT.resources.log_every,
        max_skipped=EXPERIMENT.resources.max_skipped,
    params:
        steps=lambda wildcards: int(wildcards.step),
        latents=latents_folder,
        features=lambda wildcards: flags(
            "features", INPUTS.places(INPUTS.encoders_of(wildcards.run))
        ),
        critics=lambda wildcards: flags("critic", INPUTS.critics(wildcards.run)),
        decoder=flag("preview-weights", INPUTS.tokenizer),
    shell:
        "vrpo --nodes {resources.nodes} --gpus {resources.gpu} train --config {input.config:q}"
        " --latents {params.latents:q} {params.features} {params.critics}"
        " --milestone {params.steps} --output {output:q}"
        " --save-minutes {resources.save_minutes} --log-every {resources.log_every}"
        " --max-skipped {resources.max_skipped}"
        " --tracking {input.tracking:q} --preview-tokenizer {input.tokenizer:q} {params.decoder}"
        " --device {resources.device} --threads {threads} &> {log:q}"
