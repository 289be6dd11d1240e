# Resolved configs: what each stage depends on, in a file that changes only with its content.


localrules:
    resolved_config,


rule resolved_config:
    input:
        force_where_stale,
    output:
        PATHS.folder / "{resolved}.yaml",
    log:
        PATHS.log("{resolved}"),
    wildcard_constraints:
        resolved=one_of(
            [path.relative_to(PATHS.folder).with_suffix("").as_posix() for path in PLAN.texts]
        ),
    conda:
        REPORT_ENV
    params:
        text=lambda wildcards, output: PLAN.texts[Path(output[0])],
    shell:
        "printf %s {params.text:q} > {output:q} 2> {log:q}"
