# Guidance by the aligned representation: its targets, the deviation of its reward, and samples.
GUIDED = [name for name, sampler in EXPERIMENT.samplers.items() if sampler.guidance.rewarded]


rule class_tokens:
    # once per experiment and encoder
    input:
        data=PATHS.config("images"),
        latents=INPUTS.latents,
        features=lambda wildcards: INPUTS.features([wildcards.encoder]),
    output:
        PATHS.class_tokens("{encoder}"),
    log:
        PATHS.log("class-tokens-{encoder}"),
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
        "vrpo --gpus {resources.gpu} class-tokens --data {input.data:q}"
        " --name {wildcards.encoder} --latents {params.latents:q} --features {params.features:q}"
        " --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"


rule image_tokens:
    input:
        config=PATHS.config("encoders/{encoder}"),
        data=PATHS.config("images"),
        image=lambda wildcards: INPUTS.target_image(*wildcards),
        weights=lambda wildcards: INPUTS.encoder(wildcards.encoder),
    output:
        PATHS.image_tokens("{encoder}", "{sampler}"),
    log:
        PATHS.log("image-tokens-{encoder}/{sampler}"),
    wildcard_constraints:
        sampler=one_of(GUIDED),
    conda:
        TORCH_ENV
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
    params:
        weights=lambda wildcards: flag("weights", INPUTS.encoder(wildcards.encoder)),
    shell:
        "vrpo --gpus {resources.gpu} image-tokens --config {input.config:q} --data {input.data:q}"
        " --name {wildcards.encoder} --image {input.image:q} {params.weights}"
        " --output {output:q} --device {resources.device} --threads {threads} &> {log:q}"


rule reward_moments:
    input:
        milestone=lambda wildcards: INPUTS.aligned(*wildcards),
        latents=INPUTS.latents,
        features=lambda wildcards: INPUTS.features(INPUTS.encoders_of(wildcards.run)),
    output:
        PATHS.moments("{run}", "{seed}", "{step}"),
    log:
        PATHS.log("moments/{run}/seed{seed}/step{step}"),
    conda:
        TORCH_ENV
    threads: THREADS
    resources:
        gpu=GPU,
        device=DEVICE,
    params:
        latents=latents_folder,
        features=lambda wildcards: flags(
            "features", INPUTS.places(INPUTS.encoders_of(wildcards.run))
        ),
    shell:
        "vrpo --gpus {resources.gpu} reward-moments --milestone {input.milestone:q}"
        " --latents {params.latents:q} {params.features} --output {output:q}"
        " --device {resources.device} --threads {threads} &> {log:q}"


ruleorder: sample_guided > sample


use rule sample as sample_guided with:
    # `sample` itself stays as it is, so that existing samples are not made again
    input:
        config=PATHS.config("samplers/{sampler}"),
        milestone=lambda wildcards: INPUTS.sampled(*wildcards),
        tokenizer=PATHS.config("tokenizer"),
        weights=INPUTS.tokenizer,
        targets=lambda wildcards: list(INPUTS.targets_of(wildcards.run, wildcards.sampler).values()),
        moments=lambda wildcards: INPUTS.moments_of(*wildcards),
    wildcard_constraints:
        sampler=one_of(GUIDED),
    params:
        weights=lambda wildcards: " ".join(
            [
                flag("tokenizer-weights", INPUTS.tokenizer),
                flags("target", INPUTS.targets_of(wildcards.run, wildcards.sampler)),
                flag("moments", INPUTS.moments_of(*wildcards)),
            ]
        ),
