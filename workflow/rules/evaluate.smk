# The evaluation network (the miniature trains its own), reference statistics, and scores with their provenance.


rule fit_evaluation:
    input:
        config=RESULTS / "config/evaluation.yaml",
        images=rules.images.output,
    output:
        RESULTS / "networks/evaluation.safetensors",
    log:
        RESULTS / "logs/fit-evaluation.log",
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=min(GPUS, 1),
        device=DEVICE,
    shell:
        "python -m vrpo.launch {resources.gpu} fit-classifier --section trained --config {input.config} --images {input.images} --output {output}"
        " --device {resources.device} --threads {threads} &> {log}"


rule reference:
    input:
        config=RESULTS / "config/evaluation.yaml",
        images=rules.images.output,
        weights=evaluation_weights(),
    output:
        RESULTS / "reference.npz",
    log:
        RESULTS / "logs/reference.log",
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=min(GPUS, 1),
        device=DEVICE,
    params:
        weights=weights_option(evaluation_weights()),
    shell:
        "python -m vrpo.launch {resources.gpu} reference --config {input.config} --images {input.images} {params.weights} --output {output}"
        " --device {resources.device} --threads {threads} &> {log}"


rule evaluate:
    input:
        config=RESULTS / "config/evaluation.yaml",
        samples=rules.sample.output,
        reference=rules.reference.output,
        weights=evaluation_weights(),
    output:
        RESULTS / "metrics/{run}/seed{seed}/step{step}/{sampler}.json",
    log:
        RESULTS / "logs/evaluate/{run}/seed{seed}/step{step}/{sampler}.log",
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=min(GPUS, 1),
        device=DEVICE,
    params:
        weights=weights_option(evaluation_weights()),
    shell:
        "python -m vrpo.launch {resources.gpu} evaluate {input.samples} {input.reference} --config {input.config}"
        " {params.weights} --output {output} --device {resources.device} --threads {threads} &> {log}"
