# Images sampled from a milestone, by each sampler that belongs to the run's process.


rule sample:
    input:
        config=RESULTS / "config/samplers/{sampler}.yaml",
        milestone=rules.train.output,
        tokenizer=RESULTS / "config/tokenizer.yaml",
        weights=tokenizer_weights(),
    output:
        RESULTS / "samples/{run}/seed{seed}/step{step}/{sampler}.h5",
    log:
        RESULTS / "logs/sample/{run}/seed{seed}/step{step}/{sampler}.log",
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=min(GPUS, RESOURCES.sample_gpus),
        device=DEVICE,
    params:
        weights=weights_option(tokenizer_weights(), "tokenizer-weights"),
    shell:
        "python -m vrpo.launch {resources.gpu} sample --config {input.config} --milestone {input.milestone} --tokenizer-config {input.tokenizer}"
        " {params.weights} --output {output} --device {resources.device} --threads {threads} &> {log}"
