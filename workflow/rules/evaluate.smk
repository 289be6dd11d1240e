# Reference statistics, and scores with their provenance.


rule reference:
    input:
        config=PATHS.config("evaluation"),
        images=INPUTS.images,
        manifest=rules.manifest.output,
        weights=INPUTS.evaluation,
        extra=list(INPUTS.extra.values()),
    output:
        PATHS.reference,
    log:
        PATHS.log("reference"),
    conda:
        TORCH_ENV
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
    params:
        images=images_folder,
        weights=flag("weights", INPUTS.evaluation),
        extra=flags("extra-weights", INPUTS.extra),
    shell:
        "vrpo --gpus {resources.gpu} reference --config {input.config:q} --images {params.images:q}"
        " {params.weights} {params.extra} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


rule evaluate:
    input:
        config=PATHS.config("evaluation"),
        tracking=ancient(PATHS.config("tracking")),  # changes no score
        samples=lambda wildcards: INPUTS.samples(*wildcards),
        reference=rules.reference.output,
        weights=INPUTS.evaluation,
        extra=list(INPUTS.extra.values()),
    output:
        PATHS.metrics("{run}", "{seed}", "{step}", "{sampler}"),
    log:
        PATHS.log("evaluate/{run}/seed{seed}/step{step}/{sampler}"),
    conda:
        TORCH_ENV
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
    params:
        run=lambda wildcards: PATHS.run(wildcards.run, wildcards.seed),
        weights=flag("weights", INPUTS.evaluation),
        extra=flags("extra-weights", INPUTS.extra),
    shell:
        "vrpo --gpus {resources.gpu} evaluate {input.samples:q} {input.reference:q}"
        " --config {input.config:q} {params.weights} {params.extra} --output {output:q}"
        " --tracking {input.tracking:q} --run-folder {params.run:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"
