# What figures and tables read, collected into small files; then one rule for each figure and table, by its name.
from vrpo.config.described import described_report

config["report"] = described_report(EXPERIMENT).model_dump()  # for workflow/report/workflow.rst

FIGURES = {
    "fid": "FID against training steps",
    "losses": "Losses against training steps",
    "rewards": "Rewards of VRPO against training steps",
    "samples": "Samples of every run, from the same noise",
    "representation": "Linear probe and CKNNA over blocks",
    "diagnostics": "What VRPO does differently from REPA during training",
}
TABLES = {
    "comparison": "Scores at the last milestone",
    "convergence": "FID at every milestone",
    "gains": "Differences between alignments, paired by seed",
    "claims": "The paper's claims",
}
COLLECTED = PATHS.collected_files


rule collect:
    input:
        config=PATHS.config("collect"),
        experiment=ancient(PATHS.config("experiment")),  # collect.yaml holds what matters of it
        metrics=[PATHS.metrics(*key) for key in jobs.evaluations(EXPERIMENT)],
        samples=[PATHS.samples(*key) for key in jobs.shown(EXPERIMENT)],
        representation=[PATHS.representation(*key) for key in jobs.represented(EXPERIMENT)],
        images=PATHS.files(PATHS.images),
    output:
        COLLECTED,
    log:
        PATHS.log("collect"),
    conda:
        REPORT_ENV
    threads: 1
    resources:
        mem_mb=CPU_MEMORY,
        runtime=short_runtime,
        gpu=0,
    params:
        planned=planned,
        folder=str(PATHS.collected),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo {params.planned} collect --config {input.experiment:q} --output-folder {params.folder:q} &> {log:q}"


for NAME, TITLE in FIGURES.items():

    rule:
        name:
            NAME
        input:
            config=PATHS.config("report"),
            collected=COLLECTED,
        output:
            png=report(
                RESULTS / f"figures/{NAME}.png",
                caption=f"../report/{NAME}.rst",
                category="Figures",
                labels={"figure": TITLE},
            ),
            pdf=RESULTS / f"figures/{NAME}.pdf",
            csv=RESULTS / f"figures/{NAME}.csv",
        log:
            RESULTS / f"logs/figures/{NAME}.log",
        conda:
            REPORT_ENV
        threads: 1
        resources:
            mem_mb=CPU_MEMORY,
            runtime=short_runtime,
            gpu=0,
        params:
            planned=planned,
            name=NAME,
            folder=lambda wildcards, input: str(Path(input.collected[0]).parent),
        shell:
            "PYTHONPATH=$VRPO_PATH python -m vrpo {params.planned} figure {params.name} --config {input.config:q} --collected {params.folder:q} --output {output.pdf:q} &> {log:q}"


for NAME, TITLE in TABLES.items():

    rule:
        name:
            NAME
        input:
            config=PATHS.config("report"),
            published=published_numbers,
            collected=COLLECTED,
        output:
            csv=report(
                RESULTS / f"tables/{NAME}.csv",
                caption=f"../report/{NAME}.rst",
                category="Tables",
                labels={"table": TITLE},
            ),
            md=RESULTS / f"tables/{NAME}.md",
            tex=RESULTS / f"tables/{NAME}.tex",
        log:
            RESULTS / f"logs/tables/{NAME}.log",
        conda:
            REPORT_ENV
        threads: 1
        resources:
            mem_mb=CPU_MEMORY,
            runtime=short_runtime,
            gpu=0,
        params:
            planned=planned,
            name=NAME,
            folder=lambda wildcards, input: str(Path(input.collected[0]).parent),
        shell:
            "PYTHONPATH=$VRPO_PATH python -m vrpo {params.planned} table {params.name} --config {input.config:q} --collected {params.folder:q} --output {output.csv:q} &> {log:q}"


rule figures:
    input:
        expand(RESULTS / "figures/{name}.{kind}", name=FIGURES, kind=["pdf", "png", "csv"]),


rule tables:
    input:
        expand(RESULTS / "tables/{name}.{kind}", name=TABLES, kind=["csv", "md", "tex"]),


rule report:
    input:
        rules.figures.input,
        rules.tables.input,
        COLLECTED,
        config=PATHS.config("report"),
    output:
        html=report(RESULTS / "report.html", caption="../report/report.rst", category="Report"),
        readme=RESULTS / "README.md",
    log:
        PATHS.log("report"),
    conda:
        REPORT_ENV
    threads: 1
    resources:
        mem_mb=CPU_MEMORY,
        runtime=short_runtime,
        gpu=0,
    params:
        planned=planned,
        folder=lambda wildcards, output: str(Path(output.html).parent),
    shell:
        "PYTHONPATH=$VRPO_PATH python -m vrpo {params.planned} report --config {input.config:q} --folder {params.folder:q} --output {output.html:q} &> {log:q}"
