# Results collected into small files, one rule for each entry of the catalogue, and the report.
# On a cluster they are one job, which runs one after the other (`drawing` in the profile).
from vrpo.config.described import described_report
from vrpo.report import catalogue
from vrpo.report.catalogue import CATALOGUE

config = {  # a copy, as a module's config may be that of other rules, too
    **config,
    "report": described_report(EXPERIMENT).model_dump(),  # for workflow/report/workflow.rst
    "captions": {each.name: f"{each.title}. {each.caption}" for each in CATALOGUE},  # entry.rst
}
COLLECTED = [PATHS.collected / name for name in catalogue.COLLECTED]


rule collect:
    input:
        config=PATHS.config("collect"),
        experiment=ancient(PATHS.config("experiment")),  # collect.yaml holds what matters of it
        metrics=[PATHS.metrics(*key) for key in jobs.evaluations(EXPERIMENT)],
        samples=[PATHS.samples(*key) for key in jobs.shown(EXPERIMENT)],
        representation=[PATHS.representation(*key) for key in jobs.represented(EXPERIMENT)],
        images=INPUTS.images,
    output:
        COLLECTED,
    log:
        PATHS.log("collect"),
    group:
        "report"
    conda:
        REPORT_ENV
    resources:
        drawing=1,
    params:
        folder=lambda wildcards, output: str(Path(output[0]).parent),
    shell:
        "vrpo collect --config {input.experiment:q} --output-folder {params.folder:q} &> {log:q}"


DRAWN = {"figure": [], "table": []}  # all their files

for ENTRY in CATALOGUE:
    FILES = [PATHS.drawn(ENTRY.kind, file) for file in ENTRY.files]
    DRAWN[ENTRY.kind] += FILES

    rule:
        name:
            ENTRY.name
        input:
            config=PATHS.config("report"),
            published=INPUTS.published if ENTRY.kind == "table" else [],
            collected=[PATHS.collected / name for name in ENTRY.needs],
        output:
            shown=report(
                FILES[0],
                caption="../report/entry.rst",
                category=f"{ENTRY.kind.capitalize()}s",
                labels={ENTRY.kind: ENTRY.title},
            ),
            others=FILES[1:],
        log:
            PATHS.log(f"{ENTRY.kind}s/{ENTRY.name}"),
        group:
            "report"
        conda:
            REPORT_ENV
        resources:
            drawing=1,
        params:
            kind=ENTRY.kind,
            name=ENTRY.name,
            folder=lambda wildcards, input: str(Path(input.collected[0]).parent),
        shell:
            "vrpo {params.kind} {params.name}"
            " --config {input.config:q} --collected {params.folder:q}"
            " --output {output.shown:q} &> {log:q}"


rule figures:
    input:
        DRAWN["figure"],


rule tables:
    input:
        DRAWN["table"],


rule report:
    input:
        rules.figures.input,
        rules.tables.input,
        COLLECTED,
        config=PATHS.config("report"),
    output:
        html=report(PATHS.report, caption="../report/report.rst", category="Report"),
        readme=PATHS.readme,
    log:
        PATHS.log("report"),
    group:
        "report"
    conda:
        REPORT_ENV
    resources:
        drawing=1,
    params:
        folder=lambda wildcards, output: str(Path(output.html).parent),
    shell:
        "vrpo report --config {input.config:q} --folder {params.folder:q}"
        " --output {output.html:q} &> {log:q}"
