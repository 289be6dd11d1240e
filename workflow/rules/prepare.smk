# Images, networks with `weights: trained`, latents, features, and latent critics.


rule listing:
    # Without it each shard's job would look at every image. An outdated listing is not used.
    input:
        config=PATHS.config("images"),
    output:
        PATHS.listing,
    log:
        PATHS.log("listing"),
    conda:
        TORCH_ENV
    shell:
        "vrpo list-images --config {input.config:q} --output {output:q} &> {log:q}"


rule images:
    # The image folder is no input, as its time changes easily. Images hold its fingerprint.
    input:
        config=PATHS.config("images"),
        listing=ancient(INPUTS.listing),
    output:
        PATHS.shard(PATHS.images),
    log:
        PATHS.log("images/{shard}"),
    conda:
        TORCH_ENV
    threads: max(1, EXPERIMENT.data.workers)
    params:
        listing=flag("listing", INPUTS.listing),
    shell:
        "vrpo --gpus 0 images --config {input.config:q} {params.listing}"
        " --output {output:q} &> {log:q}"


rule manifest:
    input:
        config=PATHS.config("images"),
        images=INPUTS.images,
    output:
        PATHS.manifest,
    log:
        PATHS.log("manifest"),
    conda:
        TORCH_ENV
    params:
        images=images_folder,
    shell:
        "vrpo manifest --config {input.config:q} --images {params.images:q}"
        " --output {output:q} &> {log:q}"


rule fit_network:
    # the tokenizer, encoders and evaluation networks with `weights: trained`
    input:
        config=lambda wildcards: INPUTS.fitting(wildcards.network).config,
        images=INPUTS.images,
        manifest=rules.manifest.output,
    output:
        PATHS.network("{network}"),
    log:
        PATHS.log("fit-{network}"),
    conda:
        TORCH_ENV
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
    params:
        stage=lambda wildcards: INPUTS.fitting(wildcards.network).stage,
        images=images_folder,
    shell:
        "vrpo --gpus {resources.gpu} {params.stage} --config {input.config:q}"
        " --images {params.images:q} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


rule encode_latents:
    input:
        config=PATHS.config("tokenizer"),
        images=INPUTS.images,
        manifest=rules.manifest.output,
        weights=INPUTS.tokenizer,
    output:
        PATHS.shard(PATHS.latents),
    log:
        PATHS.log("encode-latents/{shard}"),
    conda:
        TORCH_ENV
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
    params:
        images=images_folder,
        weights=flag("weights", INPUTS.tokenizer),
    shell:
        "vrpo --gpus {resources.gpu} encode-latents --config {input.config:q}"
        " --images {params.images:q} {params.weights} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


rule encode_features:
    input:
        config=PATHS.config("encoders/{encoder}"),
        images=INPUTS.images,
        manifest=rules.manifest.output,
        weights=lambda wildcards: INPUTS.encoder(wildcards.encoder),
    output:
        PATHS.shard(PATHS.features("{encoder}")),
    log:
        PATHS.log("encode-features-{encoder}/{shard}"),
    conda:
        TORCH_ENV
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
    params:
        images=images_folder,
        weights=lambda wildcards: flag("weights", INPUTS.encoder(wildcards.encoder)),
    shell:
        "vrpo --gpus {resources.gpu} encode-features --config {input.config:q}"
        " --name {wildcards.encoder} --images {params.images:q} {params.weights}"
        " --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"


use rule encode_features as describe_features with:
    # of an encoder with `features: online`: how its tokens are computed when they are needed
    output:
        PATHS.folder / "features/{encoder}.json",
    log:
        PATHS.log("describe-features-{encoder}"),


rule fit_critic:
    input:
        config=PATHS.config("critic"),
        latents=INPUTS.latents,
        features=lambda wildcards: INPUTS.features([wildcards.encoder]),
    output:
        PATHS.network("critic-{encoder}"),
    log:
        PATHS.log("fit-critic-{encoder}"),
    conda:
        TORCH_ENV
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
    params:
        latents=latents_folder,
        features=lambda wildcards: str(PATHS.features(wildcards.encoder)),
    shell:
        "vrpo --gpus {resources.gpu} fit-critic --config {input.config:q}"
        " --latents {params.latents:q} --features {params.features:q}"
        " --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"
