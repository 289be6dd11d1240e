# Images, the networks that the miniature trains for itself, latents, features, and the latent critics.


rule images:
    # The image folder is not an input: its time changes whenever anything touches it. Images hold its fingerprint.
    input:
        config=RESULTS / "config/images.yaml",
    output:
        part_of("images"),
    log:
        log_of("images"),
    conda:
        TORCH_ENV
    threads: max(1, EXPERIMENT.data.workers)
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=0,
    shell:
        "python -m vrpo images --config {input.config} --output {output} &> {log}"


rule manifest:
    input:
        config=RESULTS / "config/images.yaml",
        images=parts_of("images"),
    output:
        RESULTS / "images.json",
    log:
        RESULTS / "logs/manifest.log",
    conda:
        TORCH_ENV
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=0,
    params:
        images=lambda wildcards, input: place_of(input.images),
    shell:
        "python -m vrpo manifest --config {input.config} --images {params.images} --output {output} &> {log}"


rule fit_tokenizer:
    input:
        config=RESULTS / "config/tokenizer.yaml",
        images=parts_of("images"),
        manifest=rules.manifest.output,
    output:
        RESULTS / "networks/tokenizer.safetensors",
    log:
        RESULTS / "logs/fit-tokenizer.log",
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=min(GPUS, 1),
        device=DEVICE,
    params:
        images=lambda wildcards, input: place_of(input.images),
    shell:
        "python -m vrpo.launch {resources.gpu} fit-tokenizer --config {input.config} --images {params.images} --output {output}"
        " --device {resources.device} --threads {threads} &> {log}"


rule fit_encoder:
    input:
        config=RESULTS / "config/encoders/{encoder}.yaml",
        images=parts_of("images"),
        manifest=rules.manifest.output,
    output:
        RESULTS / "networks/encoder-{encoder}.safetensors",
    log:
        RESULTS / "logs/fit-encoder-{encoder}.log",
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=min(GPUS, 1),
        device=DEVICE,
    params:
        images=lambda wildcards, input: place_of(input.images),
    shell:
        "python -m vrpo.launch {resources.gpu} fit-classifier --config {input.config} --images {params.images} --output {output}"
        " --device {resources.device} --threads {threads} &> {log}"


rule encode_latents:
    input:
        config=RESULTS / "config/tokenizer.yaml",
        images=parts_of("images"),
        manifest=rules.manifest.output,
        weights=tokenizer_weights(),
    output:
        part_of("latents"),
    log:
        log_of("encode-latents"),
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=min(GPUS, 1),
        device=DEVICE,
    params:
        images=lambda wildcards, input: place_of(input.images),
        weights=weights_option(tokenizer_weights()),
    shell:
        "python -m vrpo.launch {resources.gpu} encode-latents --config {input.config} --images {params.images} {params.weights} --output {output}"
        " --device {resources.device} --threads {threads} &> {log}"


rule encode_features:
    input:
        config=RESULTS / "config/encoders/{encoder}.yaml",
        images=parts_of("images"),
        manifest=rules.manifest.output,
        weights=lambda wildcards: encoder_weights(wildcards.encoder),
    output:
        part_of("features/{encoder}"),
    log:
        log_of("encode-features-{encoder}"),
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=min(GPUS, 1),
        device=DEVICE,
    params:
        images=lambda wildcards, input: place_of(input.images),
        weights=lambda wildcards: weights_option(encoder_weights(wildcards.encoder)),
    shell:
        "python -m vrpo.launch {resources.gpu} encode-features --config {input.config} --name {wildcards.encoder} --images {params.images}"
        " {params.weights} --output {output} --device {resources.device} --threads {threads} &> {log}"


use rule encode_features as describe_features with:
    # of an encoder with `features: online`: how its tokens are computed when they are needed
    output:
        RESULTS / "features/{encoder}.json",
    log:
        RESULTS / "logs/describe-features-{encoder}.log",


rule fit_critic:
    input:
        config=RESULTS / "config/critic.yaml",
        latents=parts_of("latents"),
        features=lambda wildcards: feature_files([wildcards.encoder]),
    output:
        RESULTS / "networks/critic-{encoder}.safetensors",
    log:
        RESULTS / "logs/fit-critic-{encoder}.log",
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
        features=lambda wildcards: str(EXPERIMENT.stored(f"features/{wildcards.encoder}")),
    shell:
        "python -m vrpo.launch {resources.gpu} fit-critic --config {input.config} --latents {params.latents} --features {params.features}"
        " --output {output} --device {resources.device} --threads {threads} &> {log}"
