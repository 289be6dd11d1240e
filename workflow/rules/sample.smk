# Images sampled from a milestone, by each sampler that belongs to the run's process.


rule sample:
    input:
        config=PATHS.config("samplers/{sampler}"),
        milestone=sampled_milestone,
        tokenizer=PATHS.config("tokenizer"),
        weights=tokenizer_weights(),
    output:
        PATHS.samples("{run}", "{seed}", "{step}", "{sampler}"),
    log:
        PATHS.log("sample/{run}/seed{seed}/step{step}/{sampler}"),
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=gpu(RESOURCES.sample_gpus),
        gres=gres(RESOURCES.sample_gpus),
        devices=devices(RESOURCES.sample_gpus),
        device=DEVICE,
    params:
        planned=planned,
        weights=weights_option(tokenizer_weights(), "tokenizer-weights"),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} sample --config {input.config:q} --milestone {input.milestone:q} --tokenizer-config {input.tokenizer:q}"
        " {params.weights} --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"
