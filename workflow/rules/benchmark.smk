# The method benchmark: tables, figures and verdict, and the copy to commit.

from vrpo.report.catalogue import benchmark_entries

BENCHMARK = EXPERIMENT.benchmark
NO_BENCHMARK = (
    "benchmark: this config has no section `benchmark`; "
    "add one: --configfile config/mini.yaml config/benchmark.yaml"
)
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
        params:
            collected=lambda wildcards, input: str(Path(input.collected[0]).parent),
            folder=lambda wildcards, output: str(Path(output.readme).parent),
        shell:
            "vrpo benchmark --config {input.config:q} --report-config {input.report:q}"
            " --collected {params.collected:q} --output-folder {params.folder:q} &> {log:q}"

    rule benchmark_snapshot:
        input:
            rules.benchmark.output,
            # benchmark.yaml and collect.yaml hold what matters of it
            experiment=ancient(PATHS.config("experiment")),
        output:
            f"docs/{EXPERIMENT.experiment}/provenance.json",
            f"docs/{EXPERIMENT.experiment}/machine.json",
        log:
            PATHS.log("benchmark-snapshot"),
        conda:
            REPORT_ENV
        params:
            folder=lambda wildcards, output: str(Path(output[0]).parent),
        shell:
            "vrpo benchmark-snapshot --config {input.experiment:q}"
            " --output-folder {params.folder:q} &> {log:q}"

else:

    rule benchmark:
        input:
            lambda wildcards: INPUTS.refused(NO_BENCHMARK),

    rule benchmark_snapshot:
        input:
            lambda wildcards: INPUTS.refused(NO_BENCHMARK),
