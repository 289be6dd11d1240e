# Quality of hidden representations: each run's last milestone, where the config has a section `representation`.

if EXPERIMENT.representation:

    rule representation_of_run:
        input:
            config=PATHS.config("representation"),
            milestone=represented_milestone,
            latents=PATHS.files(PATHS.latents),
            features=feature_files(compared_encoders()),
        output:
            PATHS.representation("{run}", "{seed}", "{step}"),
        log:
            PATHS.log("representation/{run}/seed{seed}/step{step}"),
        conda:
            TORCH_ENV
        threads: RESOURCES.threads
        resources:
            mem_mb=RESOURCES.memory_mb,
            runtime=runtime,
            gpu=gpu(1),
            gres=gres(1),
            devices=devices(1),
            device=DEVICE,
        params:
            planned=planned,
            latents=latents_folder,
            features=features_option(compared_encoders()),
        shell:
            "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} representation --config {input.config:q} --milestone {input.milestone:q} --latents {params.latents:q}"
            " {params.features} --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"
