# The evaluation networks (the miniature trains its own), reference statistics, and scores with their provenance.


rule fit_evaluation:
    input:
        config=PATHS.config("evaluation"),
        images=PATHS.files(PATHS.images),
        manifest=rules.manifest.output,
    output:
        PATHS.network("evaluation"),
    log:
        PATHS.log("fit-evaluation"),
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
        images=images_folder,
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} fit-classifier --section trained --config {input.config:q} --images {params.images:q} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


rule fit_extra_evaluation:
    input:
        config=PATHS.config("evaluation"),
        images=images_of_network,
        manifest=rules.manifest.output,
    output:
        PATHS.network("evaluation-{extra}"),
    log:
        PATHS.log("fit-evaluation-{extra}"),
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
        images=images_folder,
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} fit-classifier --section extra_networks.{wildcards.extra} --config {input.config:q}"
        " --images {params.images:q} --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"


rule reference:
    input:
        config=PATHS.config("evaluation"),
        images=PATHS.files(PATHS.images),
        manifest=rules.manifest.output,
        weights=evaluation_weights(),
        extra=list(extra_weights().values()),
    output:
        PATHS.reference,
    log:
        PATHS.log("reference"),
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
        images=images_folder,
        weights=weights_option(evaluation_weights()),
        extra=pairs_option("extra-weights", extra_weights()),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} reference --config {input.config:q} --images {params.images:q} {params.weights} {params.extra} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


rule evaluate:
    input:
        config=PATHS.config("evaluation"),
        samples=scored_samples,
        reference=rules.reference.output,
        weights=evaluation_weights(),
        extra=list(extra_weights().values()),
    output:
        PATHS.metrics("{run}", "{seed}", "{step}", "{sampler}"),
    log:
        PATHS.log("evaluate/{run}/seed{seed}/step{step}/{sampler}"),
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
