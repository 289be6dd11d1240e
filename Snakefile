# Images -> latents and features -> trained runs -> samples -> scores -> figures, tables, report.
#
#   snakemake --cores all                              everything, for the default config/mini.yaml
#   snakemake --cores all figures | tables | report    only those, with what they need
#   snakemake --cores all fid                          a figure by name (vrpo/report/catalogue.py)
#   snakemake --cores all prepare | milestones         data and networks; trained weights
#   snakemake --cores all --configfile config/mini.yaml config/benchmark.yaml -- benchmark
#   snakemake -n --configfile config/imagenet256.yaml --workflow-profile slurm
# Options are in config/ and explained in docs/options.md. `--config` sets any of them, e.g.
# --config seeds='[0,1,2]'. After options that take several values, targets follow `--`.
from snakemake.utils import min_version

min_version("9.19")


container: "vrpo.sif"  # in the working directory, for `--sdm apptainer` (docs/deployment.md)


if not workflow.overwrite_configfiles:

    configfile: f"{workflow.basedir}/config/mini.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/config.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/guidance.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/representation.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/benchmark.smk"
include: "workflow/rules/guidance_table.smk"


if workflow.modifier.namespace is None:  # a workflow that uses this as a module has its own

    report: "workflow/report/workflow.rst"


onstart:
    start(workflow, rules, PLAN)


onsuccess:
    release_results(PATHS.folder)


onerror:
    release_results(PATHS.folder)


rule all:
    default_target: True
    input:
        rules.figures.input,
        rules.tables.input,
        rules.report.output,


rule prepare:
    input:
        INPUTS.images,
        rules.manifest.output,
        INPUTS.latents,
        rules.reference.output,
        INPUTS.features(EXPERIMENT.encoders),
        INPUTS.networks,


rule milestones:
    input:
        [PATHS.milestone(*key) for key in jobs.milestones(EXPERIMENT)],


if workflow.is_main_process and workflow.modifier.namespace is None:  # not in jobs nor modules
    names = [rule.name for rule in workflow.rules]
    check_command_line(names, lambda file: any(rule.is_producer(file) for rule in workflow.rules))
refusing(check_requests)(workflow, rules, EXPERIMENT)
