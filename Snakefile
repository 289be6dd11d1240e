# The whole pipeline: images -> latents and features -> trained runs -> samples -> scores -> figures, tables, report.
#
#   snakemake --cores all                                        everything, for the default config/mini.yaml
#   snakemake --cores all figures | tables | report              only those, with what they need
#   snakemake --cores all fid                                    one of them, by its name in vrpo/report/catalogue.py
#   snakemake --cores all prepare | milestones                   data and networks; trained weights
#   snakemake --cores all --configfile config/mini.yaml config/benchmark.yaml -- benchmark        the method benchmark (docs/benchmark.md)
#   snakemake -n --configfile config/imagenet256.yaml --workflow-profile slurm                the paper, planned
#
# Behind options that take several values (--configfile, --config, --forcerun), targets follow after `--`.
# Options lie in config/*.yaml and are explained in docs/options.md; any can be set with --config, e.g. --config seeds='[0,1,2]'.

if not workflow.overwrite_configfiles:

    configfile: f"{workflow.basedir}/config/mini.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/requests.smk"
include: "workflow/rules/config.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/representation.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/benchmark.smk"


report: "workflow/report/workflow.rst"


onstart:
    check_machine()
    start()
    check_weights()


onsuccess:
    release_results(RESULTS)


onerror:
    release_results(RESULTS)


rule all:
    default_target: True
    input:
        rules.figures.input,
        rules.tables.input,
        rules.report.output,


rule prepare:
    input:
        PATHS.files(PATHS.images),
        rules.manifest.output,
        PATHS.files(PATHS.latents),
        rules.reference.output,
        feature_files(EXPERIMENT.encoders),
        trained_networks(),


rule milestones:
    input:
        [PATHS.milestone(*key) for key in jobs.milestones(EXPERIMENT)],


if workflow.is_main_process and workflow.modifier.namespace is None:  # not in jobs, nor where another workflow uses this one
    check_command_line([rule.name for rule in workflow.rules], lambda file: any(rule.is_producer(file) for rule in workflow.rules))
