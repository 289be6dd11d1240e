# Images, the networks that the miniature trains for itself, latents, features, and the latent critics.


rule images:
    # The image folder is not an input: its time changes whenever anything touches it. images.h5 holds its fingerprint.
    input:
        config=RESULTS / "config/images.yaml",
    output:
        RESULTS / "images.h5",
    log:
        RESULTS / "logs/images.log",
    conda:
        TORCH_ENV
    threads: max(1, EXPERIMENT.data.workers)
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=0,
    shell:
        "python -m vrpo images --config {input.config} --output {output} &> {log}"


rule fit_tokenizer:
    input:
        config=RESULTS / "config/tokenizer.yaml",
        images=rules.images.output,
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
    shell:
        "python -m vrpo.launch {resources.gpu} fit-tokenizer --config {input.config} --images {input.images} --output {output}"
        " --device {resources.device} --threads {threads} &> {log}"


rule fit_encoder:
    input:
        config=RESULTS / "config/encoders/{encoder}.yaml",
        images=rules.images.output,
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
    shell:
        "python -m vrpo.launch {resources.gpu} fit-classifier --config {input.config} --images {input.images} --output {output}"
        " --device {resources.device} --threads {threads} &> {log}"


rule encode_latents:
    input:
        config=RESULTS / "config/tokenizer.yaml",
        images=rules.images.output,
        weights=tokenizer_weights(),
    output:
        RESULTS / "latents.h5",
    log:
        RESULTS / "logs/encode-latents.log",
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=min(GPUS, 1),
        device=DEVICE,
    params:
        weights=weights_option(tokenizer_weights()),
    shell:
        "python -m vrpo.launch {resources.gpu} encode-latents --config {input.config} --images {input.images} {params.weights} --output {output}"
        " --device {resources.device} --threads {threads} &> {log}"


rule encode_features:
    input:
        config=RESULTS / "config/encoders/{encoder}.yaml",
        images=rules.images.output,
        weights=lambda wildcards: encoder_weights(wildcards.encoder),
    output:
        RESULTS / "features/{encoder}.h5",
    log:
        RESULTS / "logs/encode-features-{encoder}.log",
    conda:
        TORCH_ENV
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.memory_mb,
        runtime=runtime,
        gpu=min(GPUS, 1),
        device=DEVICE,
    params:
        weights=lambda wildcards: weights_option(encoder_weights(wildcards.encoder)),
    shell:
        "python -m vrpo.launch {resources.gpu} encode-features --config {input.config} --name {wildcards.encoder} --images {input.images}"
        " {params.weights} --output {output} --device {resources.device} --threads {threads} &> {log}"


rule fit_critic:
    input:
        config=RESULTS / "config/critic.yaml",
        latents=rules.encode_latents.output,
        features=rules.encode_features.output,
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
    shell:
        "python -m vrpo.launch {resources.gpu} fit-critic --config {input.config} --latents {input.latents} --features {input.features}"
        " --output {output} --device {resources.device} --threads {threads} &> {log}"
