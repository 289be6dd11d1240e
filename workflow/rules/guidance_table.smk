# Table, figures and README.md of a comparison of samplers (config/guidance.yaml).
from vrpo.report.catalogue import guidance_entries

NO_GUIDANCE = (
    "guidance: no sampler of this config is guided by the representation of a run; "
    "add some: --configfile config/mini.yaml config/guidance.yaml"
)


if EXPERIMENT.guided_processes:

    rule guidance:
        input:
            samplers=[PATHS.config(f"samplers/{name}") for name in EXPERIMENT.samplers],
            experiment=ancient(PATHS.config("experiment")),
            collected=COLLECTED,
            samples=[
                PATHS.samples(*key)
                for process in EXPERIMENT.guided_processes
                for key in jobs.guided(EXPERIMENT, process)
            ],
        output:
            PATHS.guidance / "README.md",
            [
                PATHS.guidance / file
                for entry in guidance_entries(EXPERIMENT.guided_processes)
                for file in entry.files
            ],
        log:
            PATHS.log("guidance"),
        conda:
            REPORT_ENV
        params:
            collected=lambda wildcards, input: str(Path(input.collected[0]).parent),
            folder=lambda wildcards, output: str(Path(output[0]).parent),
        shell:
            "vrpo guidance --config {input.experiment:q} --collected {params.collected:q}"
            " --output-folder {params.folder:q} &> {log:q}"

else:

    rule guidance:
        input:
            lambda wildcards: INPUTS.refused(NO_GUIDANCE),
