# Weights of the official DiT, SiT, REPA, iREPA and HASTE code, converted to milestones: sampled and scored as those of runs.


rule import_checkpoint:
    input:
        checkpoint_file,
    output:
        PATHS.milestone("{checkpoint}", "{seed}", "{step}"),
    log:
        PATHS.log("import/{checkpoint}/seed{seed}/step{step}"),
    conda:
        TORCH_ENV
    threads: 1
    resources:
        mem_mb=import_memory,
        runtime=runtime,
        gpu=0,
    params:
        options=lambda wildcards: import_options(wildcards.checkpoint),
        step=lambda wildcards: int(wildcards.step),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo.launch {resources.gpu} import-checkpoint {input:q} --output {output:q} --run {wildcards.checkpoint} --seed {wildcards.seed} --step {params.step}"
        " {params.options} &> {log:q}"
