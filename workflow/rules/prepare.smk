# Images, the networks that the miniature trains for itself, latents, features, and the latent critics.


rule listing:
    # Once for all shards, which without it would each look at every image. A listing that the data have outrun is not used.
    input:
        config=RESULTS / "config/images.yaml",
    output:
        RESULTS / "images.listing.npz",
    log:
        RESULTS / "logs/listing.log",
    conda:
        TORCH_ENV
    resources:
        mem_mb=CPU_MEMORY,
        runtime=runtime,
        gpu=0,
    params:
        planned=planned,
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo {params.planned} list-images --config {input.config:q} --output {output:q} &> {log:q}"


rule images:
    # The image folder is not an input: its time changes whenever anything touches it. Images hold its fingerprint.
    input:
        config=RESULTS / "config/images.yaml",
        listing=ancient(listings()),
    output:
        part_of("images"),
    log:
        log_of("images"),
    conda:
        TORCH_ENV
    threads: max(1, EXPERIMENT.data.workers)
    resources:
        mem_mb=CPU_MEMORY,
        runtime=runtime,
        gpu=0,
    params:
        planned=planned,
        listing=weights_option(listings(), "listing"),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.gpu} {params.planned} images --config {input.config:q} {params.listing} --output {output:q} &> {log:q}"


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
        mem_mb=CPU_MEMORY,
        runtime=runtime,
        gpu=0,
    params:
        planned=planned,
        images=lambda wildcards, input: place_of(input.images),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo {params.planned} manifest --config {input.config:q} --images {params.images:q} --output {output:q} &> {log:q}"


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
        gpu=gpu(1),
        gres=gres(1),
        devices=devices(1),
        device=DEVICE,
    params:
        planned=planned,
        images=lambda wildcards, input: place_of(input.images),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} fit-tokenizer --config {input.config:q} --images {params.images:q} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


rule fit_encoder:
    input:
        config=RESULTS / "config/encoders/{encoder}.yaml",
        images=images_of_encoder,
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
        gpu=gpu(1),
        gres=gres(1),
        devices=devices(1),
        device=DEVICE,
    params:
        planned=planned,
        images=lambda wildcards, input: place_of(input.images),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} fit-classifier --config {input.config:q} --images {params.images:q} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


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
        gpu=gpu(1),
        gres=gres(1),
        devices=devices(1),
        device=DEVICE,
    params:
        planned=planned,
        images=lambda wildcards, input: place_of(input.images),
        weights=weights_option(tokenizer_weights()),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} encode-latents --config {input.config:q} --images {params.images:q} {params.weights} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


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
        gpu=gpu(1),
        gres=gres(1),
        devices=devices(1),
        device=DEVICE,
    params:
        planned=planned,
        images=lambda wildcards, input: place_of(input.images),
        weights=lambda wildcards: weights_option(encoder_weights(wildcards.encoder)),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} encode-features --config {input.config:q} --name {wildcards.encoder} --images {params.images:q}"
        " {params.weights} --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"


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
        gpu=gpu(1),
        gres=gres(1),
        devices=devices(1),
        device=DEVICE,
    params:
        planned=planned,
        latents=lambda wildcards, input: place_of(input.latents),
        features=lambda wildcards: str(EXPERIMENT.stored(f"features/{wildcards.encoder}")),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} fit-critic --config {input.config:q} --latents {params.latents:q} --features {params.features:q}"
        " --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"
