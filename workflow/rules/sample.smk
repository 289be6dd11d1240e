# Images sampled from a milestone, by each sampler that belongs to the run's process.


rule sample:
    input:
        config=PATHS.config("samplers/{sampler}"),
        milestone=lambda wildcards: INPUTS.sampled(*wildcards),
        tokenizer=PATHS.config("tokenizer"),
        weights=INPUTS.tokenizer,
    output:
        PATHS.samples("{run}", "{seed}", "{step}", "{sampler}"),
    log:
        PATHS.log("sample/{run}/seed{seed}/step{step}/{sampler}"),
    conda:
        TORCH_ENV
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
    params:
        weights=flag("tokenizer-weights", INPUTS.tokenizer),
    shell:
        "vrpo --gpus {resources.gpu} sample --config {input.config:q}"
        " --milestone {input.milestone:q} --tokenizer-config {input.tokenizer:q} {params.weights}"
        " --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"
