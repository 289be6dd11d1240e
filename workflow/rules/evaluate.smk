# The evaluation networks (the miniature trains its own), reference statistics, and scores with their provenance.


rule fit_evaluation:
    input:
        config=RESULTS / "config/evaluation.yaml",
        images=parts_of("images"),
        manifest=rules.manifest.output,
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
        gpu=gpu(1),
        gres=gres(1),
        devices=devices(1),
        device=DEVICE,
    params:
        planned=planned,
        images=lambda wildcards, input: place_of(input.images),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} fit-classifier --section trained --config {input.config:q} --images {params.images:q} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


rule fit_extra_evaluation:
    input:
        config=RESULTS / "config/evaluation.yaml",
        images=images_of_network,
        manifest=rules.manifest.output,
    output:
        RESULTS / "networks/evaluation-{extra}.safetensors",
    log:
        RESULTS / "logs/fit-evaluation-{extra}.log",
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
        images=lambda wildcards, input: place_of(input.images),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} fit-classifier --section extra_networks.{wildcards.extra} --config {input.config:q}"
        " --images {params.images:q} --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"


rule reference:
    input:
        config=RESULTS / "config/evaluation.yaml",
        images=parts_of("images"),
        manifest=rules.manifest.output,
        weights=evaluation_weights(),
        extra=list(extra_weights().values()),
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
        gpu=gpu(1),
        gres=gres(1),
        devices=devices(1),
        device=DEVICE,
    params:
        planned=planned,
        images=lambda wildcards, input: place_of(input.images),
        weights=weights_option(evaluation_weights()),
        extra=pairs_option("extra-weights", extra_weights()),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} reference --config {input.config:q} --images {params.images:q} {params.weights} {params.extra} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


rule evaluate:
    input:
        config=RESULTS / "config/evaluation.yaml",
        samples=scored_samples,
        reference=rules.reference.output,
        weights=evaluation_weights(),
        extra=list(extra_weights().values()),
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
        gpu=gpu(1),
        gres=gres(1),
        devices=devices(1),
        device=DEVICE,
    params:
        planned=planned,
        weights=weights_option(evaluation_weights()),
        extra=pairs_option("extra-weights", extra_weights()),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} evaluate {input.samples:q} {input.reference:q} --config {input.config:q}"
        " {params.weights} {params.extra} --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"
