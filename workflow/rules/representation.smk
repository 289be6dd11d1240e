# Quality of hidden representations: each run's last milestone, where the config has a section `representation`.

if EXPERIMENT.representation:

    rule representation_of_run:
        input:
            config=RESULTS / "config/representation.yaml",
            milestone=rules.train.output,
            latents=rules.encode_latents.output,
            features=list(compared_features().values()),
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
            features=pairs_option("features", compared_features()),
        shell:
            "python -m vrpo.launch {resources.gpu} representation --config {input.config} --milestone {input.milestone} --latents {input.latents}"
            " {params.features} --output {output} --device {resources.device} --threads {threads} &> {log}"
