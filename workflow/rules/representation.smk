# Quality of hidden representations: each run's last milestone, where the config has a section `representation`.

if EXPERIMENT.representation:

    rule representation_of_run:
        input:
            config=RESULTS / "config/representation.yaml",
            milestone=rules.train.output,
            latents=parts_of("latents"),
            features=feature_files(compared_encoders()),
        output:
            RESULTS / "representation/{run}/seed{seed}/step{step}.json",
        log:
            RESULTS / "logs/representation/{run}/seed{seed}/step{step}.log",
        conda:
            TORCH_ENV
        threads: RESOURCES.threads
        resources:
            mem_mb=RESOURCES.memory_mb,
            runtime=runtime,
            gpu=min(GPUS, 1),
            device=DEVICE,
        params:
            latents=lambda wildcards, input: place_of(input.latents),
            features=features_option(compared_encoders()),
        shell:
            "python -m vrpo.launch {resources.gpu} representation --config {input.config} --milestone {input.milestone} --latents {params.latents}"
            " {params.features} --output {output} --device {resources.device} --threads {threads} &> {log}"
