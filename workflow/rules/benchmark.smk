# The method benchmark: tables, figures and verdict, and the copy to commit.

from vrpo.report.catalogue import benchmark_entries

BENCHMARK = EXPERIMENT.benchmark
MADE = [file for entry in benchmark_entries(BENCHMARK) for file in entry.files] if BENCHMARK else []


if BENCHMARK:

    rule benchmark:
        input:
            config=PATHS.config("benchmark"),
            report=PATHS.config("report"),
            collected=COLLECTED,
        output:
            [PATHS.benchmark / file for file in MADE],
            readme=PATHS.benchmark / "README.md",
        log:
            PATHS.log("benchmark"),
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
            "PYTHONPATH=$VRPO_PATH python -m vrpo {params.planned} benchmark --config {input.config:q} --report-config {input.report:q} --collected {params.collected:q}"
            " --output-folder {params.folder:q} &> {log:q}"

    rule benchmark_snapshot:
        input:
            rules.benchmark.output,
            experiment=ancient(PATHS.config("experiment")),  # benchmark.yaml and collect.yaml hold what matters of it
        output:
            f"docs/{EXPERIMENT.experiment}/provenance.json",
            f"docs/{EXPERIMENT.experiment}/machine.json",
        log:
            PATHS.log("benchmark-snapshot"),
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
            "PYTHONPATH=$VRPO_PATH python -m vrpo {params.planned} benchmark-snapshot --config {input.experiment:q} --output-folder {params.folder:q} &> {log:q}"

else:

    rule benchmark:
        input:
            no_benchmark,

    rule benchmark_snapshot:
        input:
            no_benchmark,
