# Weights of the official DiT, SiT, REPA, iREPA and HASTE code, converted to milestones.


rule import_checkpoint:
    input:
        lambda wildcards: INPUTS.checkpoint(*wildcards),
    output:
        PATHS.milestone("{checkpoint}", "{seed}", "{step}"),
    log:
        PATHS.log("import/{checkpoint}/seed{seed}/step{step}"),
    conda:
        TORCH_ENV
    resources:
        mem_mb=lambda wildcards, input: import_memory(input[0]),
    params:
        options=lambda wildcards: INPUTS.import_options(wildcards.checkpoint),
        step=lambda wildcards: int(wildcards.step),
    shell:
        "vrpo --gpus 0 import-checkpoint {input:q} --output {output:q}"
        " --run {wildcards.checkpoint} --seed {wildcards.seed} --step {params.step}"
        " {params.options} &> {log:q}"
