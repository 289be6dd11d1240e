# Images, the networks that the miniature trains for itself, latents, features, and the latent critics.


rule listing:
    # Once for all shards, which without it would each look at every image. A listing that the data have outrun is not used.
    input:
        config=PATHS.config("images"),
    output:
        PATHS.listing,
    log:
        PATHS.log("listing"),
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
        config=PATHS.config("images"),
        listing=ancient(listings()),
    output:
        PATHS.shard(PATHS.images),
    log:
        PATHS.log("images/{shard}"),
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
        config=PATHS.config("images"),
        images=PATHS.files(PATHS.images),
    output:
        PATHS.manifest,
    log:
        PATHS.log("manifest"),
    conda:
        TORCH_ENV
    resources:
        mem_mb=CPU_MEMORY,
        runtime=runtime,
        gpu=0,
    params:
        planned=planned,
        images=images_folder,
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo {params.planned} manifest --config {input.config:q} --images {params.images:q} --output {output:q} &> {log:q}"


rule fit_tokenizer:
    input:
        config=PATHS.config("tokenizer"),
        images=PATHS.files(PATHS.images),
        manifest=rules.manifest.output,
    output:
        PATHS.network("tokenizer"),
    log:
        PATHS.log("fit-tokenizer"),
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
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} fit-tokenizer --config {input.config:q} --images {params.images:q} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


rule fit_encoder:
    input:
        config=PATHS.config("encoders/{encoder}"),
        images=images_of_encoder,
        manifest=rules.manifest.output,
    output:
        PATHS.network("encoder-{encoder}"),
    log:
        PATHS.log("fit-encoder-{encoder}"),
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
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} fit-classifier --config {input.config:q} --images {params.images:q} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


rule encode_latents:
    input:
        config=PATHS.config("tokenizer"),
        images=PATHS.files(PATHS.images),
        manifest=rules.manifest.output,
        weights=tokenizer_weights(),
    output:
        PATHS.shard(PATHS.latents),
    log:
        PATHS.log("encode-latents/{shard}"),
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
        weights=weights_option(tokenizer_weights()),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} encode-latents --config {input.config:q} --images {params.images:q} {params.weights} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


rule encode_features:
    input:
        config=PATHS.config("encoders/{encoder}"),
        images=PATHS.files(PATHS.images),
        manifest=rules.manifest.output,
        weights=lambda wildcards: encoder_weights(wildcards.encoder),
    output:
        PATHS.shard(PATHS.features("{encoder}")),
    log:
        PATHS.log("encode-features-{encoder}/{shard}"),
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
        weights=lambda wildcards: weights_option(encoder_weights(wildcards.encoder)),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} encode-features --config {input.config:q} --name {wildcards.encoder} --images {params.images:q}"
        " {params.weights} --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"


use rule encode_features as describe_features with:
    # of an encoder with `features: online`: how its tokens are computed when they are needed
    output:
        RESULTS / "features/{encoder}.json",
    log:
        PATHS.log("describe-features-{encoder}"),


rule fit_critic:
    input:
        config=PATHS.config("critic"),
        latents=PATHS.files(PATHS.latents),
        features=lambda wildcards: feature_files([wildcards.encoder]),
    output:
        PATHS.network("critic-{encoder}"),
    log:
        PATHS.log("fit-critic-{encoder}"),
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
        latents=latents_folder,
        features=lambda wildcards: str(PATHS.features(wildcards.encoder)),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.devices} {params.planned} fit-critic --config {input.config:q} --latents {params.latents:q} --features {params.features:q}"
        " --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"
