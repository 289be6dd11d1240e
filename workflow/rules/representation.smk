# Quality of hidden representations of each run's last milestone (section `representation`).

if EXPERIMENT.representation:

    rule representation_of_run:
        input:
            config=PATHS.config("representation"),
            milestone=lambda wildcards: INPUTS.represented(*wildcards),
            latents=INPUTS.latents,
            features=INPUTS.features(INPUTS.compared_encoders),
        output:
            PATHS.representation("{run}", "{seed}", "{step}"),
        log:
            PATHS.log("representation/{run}/seed{seed}/step{step}"),
        conda:
            TORCH_ENV
        threads: THREADS
        resources:
            gpu=GPU,
            device=DEVICE,
        params:
            latents=latents_folder,
            features=flags("features", INPUTS.places(INPUTS.compared_encoders)),
        shell:
            "vrpo --gpus {resources.gpu} representation --config {input.config:q}"
            " --milestone {input.milestone:q} --latents {params.latents:q} {params.features}"
            " --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"
