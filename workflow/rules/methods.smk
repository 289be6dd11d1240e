# The method benchmark: tables, figures and verdict, and the copy to commit.

from vrpo.reporting.catalogue import benchmark_entries

METHODS = EXPERIMENT.methods
MADE = [file for entry in benchmark_entries(METHODS) for file in entry.files] if METHODS else []


if METHODS:

    rule methods:
        input:
            config=PATHS.config("methods"),
            report=PATHS.config("report"),
            collected=COLLECTED,
        output:
            [PATHS.benchmark / file for file in MADE],
            readme=PATHS.benchmark / "README.md",
        log:
            PATHS.log("methods"),
        conda:
            REPORT_ENV
        threads: 1
        resources:
            mem_mb=CPU_MEMORY,
            runtime=short_runtime,
            gpu=0,
        params:
            planned=planned,
            collected=lambda wildcards, input: str(Path(input.collected[0]).parent),
            folder=lambda wildcards, output: str(Path(output.readme).parent),
        shell:
            "PYTHONPATH=$VRPO_PATH python -m vrpo {params.planned} methods --config {input.config:q} --report-config {input.report:q} --collected {params.collected:q}"
            " --output-folder {params.folder:q} &> {log:q}"

    rule methods_snapshot:
        input:
            rules.methods.output,
            experiment=ancient(PATHS.config("experiment")),  # methods.yaml and collect.yaml hold what matters of it
        output:
            f"docs/{EXPERIMENT.experiment}/provenance.json",
            f"docs/{EXPERIMENT.experiment}/machine.json",
        log:
            PATHS.log("methods-snapshot"),
        conda:
            REPORT_ENV
        threads: 1
        resources:
            mem_mb=CPU_MEMORY,
            runtime=short_runtime,
            gpu=0,
        params:
            planned=planned,
            folder=lambda wildcards, output: str(Path(output[0]).parent),
        shell:
            "PYTHONPATH=$VRPO_PATH python -m vrpo {params.planned} methods-snapshot --config {input.experiment:q} --output-folder {params.folder:q} &> {log:q}"

else:

    rule methods:
        input:
            no_methods,

    rule methods_snapshot:
        input:
            no_methods,
