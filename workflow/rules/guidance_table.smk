# The table of a comparison of samplers (config/guidance.yaml).
NO_GUIDANCE = (
    "guidance: no sampler of this config is guided by the representation; "
    "add some: --configfile config/mini.yaml config/guidance.yaml"
)


if GUIDED:

    rule guidance:
        input:
            samplers=[PATHS.config(f"samplers/{name}") for name in EXPERIMENT.samplers],
            experiment=ancient(PATHS.config("experiment")),
            collected=COLLECTED,
        output:
            [PATHS.guidance.with_suffix(ending) for ending in (".csv", ".md", ".tex")],
        log:
            PATHS.log("guidance"),
        conda:
            REPORT_ENV
        params:
            collected=lambda wildcards, input: str(Path(input.collected[0]).parent),
        shell:
            "vrpo guidance-table --config {input.experiment:q} --collected {params.collected:q}"
            " --output {output[0]:q} &> {log:q}"

else:

    rule guidance:
        input:
            lambda wildcards: INPUTS.refused(NO_GUIDANCE),
