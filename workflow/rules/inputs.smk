# Inputs of rules, and the options of commands that name them.

# ---- images, latents and features: folders of shards, each written by a job of its own ------------------------


def images_folder(wildcards):
    """The folder of all images, as an argument."""
    return str(PATHS.images)


def latents_folder(wildcards):
    """The folder of all latents, as an argument."""
    return str(PATHS.latents)


def listings():
    """[the listing of the images], where several jobs write them."""
    return [PATHS.listing] if EXPERIMENT.data.shards > 1 and EXPERIMENT.data.source != "digits" else []


# ---- networks that the pipeline trains, when the config says `weights: trained` -------------------------------------


def trained(options, name):
    """[the network's file] when it is trained here, [] when its weights come from elsewhere."""
    return [PATHS.network(name)] if options.weights == "trained" else []


def tokenizer_weights():
    return trained(EXPERIMENT.tokenizer, "tokenizer")


def images_of_encoder(wildcards):
    """Images that an encoder is fitted on."""
    within_plan(TARGETS.require_fitted_encoder, wildcards.encoder)
    return PATHS.files(PATHS.images)


def images_of_network(wildcards):
    """Images that a further evaluation network is fitted on."""
    within_plan(TARGETS.require_extra_network, wildcards.extra)
    return PATHS.files(PATHS.images)


def encoder_weights(encoder):
    within_plan(TARGETS.require_encoder, encoder)
    return trained(EXPERIMENT.encoders[encoder], f"encoder-{encoder}")


def evaluation_weights():
    return trained(EXPERIMENT.evaluation.trained, "evaluation") if EXPERIMENT.evaluation.network == "trained" else []


def extra_weights():
    """{name: file} of the further evaluation networks that are trained here."""
    files = {name: trained(network, f"evaluation-{name}") for name, network in EXPERIMENT.evaluation.extra_networks.items()}
    return {name: paths[0] for name, paths in files.items() if paths}


def trained_networks():
    """All networks that are trained before the runs."""
    encoders = [path for encoder in EXPERIMENT.encoders for path in encoder_weights(encoder)]
    critics = [path for run in EXPERIMENT.runs for path in critics_of(run).values()]
    return sorted({*tokenizer_weights(), *encoders, *evaluation_weights(), *extra_weights().values(), *critics})


def weights_option(paths, name="weights"):
    """`--weights FILE` when there is one, else nothing."""
    return f"--{name} {shlex.quote(str(paths[0]))}" if paths else ""


# ---- runs --------------------------------------------------------------------------------------------------------


def previous_milestone(wildcards):
    """[the milestone before], which makes a run's jobs a chain."""
    within_plan(TARGETS.require_milestone, wildcards.run, wildcards.seed, wildcards.step)
    earlier = [step for step in EXPERIMENT.milestones_of(wildcards.run) if step < int(wildcards.step)]
    return [PATHS.milestone(wildcards.run, wildcards.seed, earlier[-1])] if earlier else []


def sampled_milestone(wildcards):
    """The milestone that images are sampled from."""
    within_plan(TARGETS.require_samples, wildcards.run, wildcards.seed, wildcards.step, wildcards.sampler)
    return PATHS.milestone(wildcards.run, wildcards.seed, wildcards.step)


def scored_samples(wildcards):
    """The samples that are scored."""
    within_plan(TARGETS.require_samples, wildcards.run, wildcards.seed, wildcards.step, wildcards.sampler)
    return PATHS.samples(*wildcards)


def represented_milestone(wildcards):
    """The milestone whose representation is measured."""
    within_plan(TARGETS.require_represented, wildcards.run, wildcards.seed, wildcards.step)
    return PATHS.milestone(wildcards.run, wildcards.seed, wildcards.step)


def aligned_encoders(run):
    """Encoders whose features a run is aligned to."""
    within_plan(TARGETS.require_run, run)
    return EXPERIMENT.alignments[EXPERIMENT.runs[run].alignment].encoders


def feature_files(encoders):
    """All files of the features of `encoders`."""
    for encoder in encoders:
        within_plan(TARGETS.require_encoder, encoder)
    return [file for encoder in encoders for file in PATHS.files(PATHS.features(encoder))]


def features_option(encoders):
    """`--features ENCODER=PLACE` for each of `encoders`."""
    return pairs_option("features", {encoder: PATHS.features(encoder) for encoder in encoders})


def critics_of(run):
    """{encoder: file} of the latent critics that a run's perceptual reward needs."""
    alignment = EXPERIMENT.alignments[EXPERIMENT.runs[run].alignment]
    encoders = alignment.encoders if alignment.needs_critic else []
    return {encoder: PATHS.network(f"critic-{encoder}") for encoder in encoders}


def pairs_option(name, files):
    """`--name KEY=FILE` for each of `files`."""
    return " ".join(f"--{name} {shlex.quote(f'{key}={path}')}" for key, path in files.items())


def import_options(checkpoint):
    """Options of `import-checkpoint` for an external checkpoint."""
    options, model = EXPERIMENT.checkpoints[checkpoint], EXPERIMENT.model_of(checkpoint)
    return f"--family {options.family} --weights {options.weights} --model {shlex.quote(model.name)} --heads {model.heads}"


# ---- what is collected for the report ----------------------------------------------------------------------------


def compared_encoders():
    """Encoders whose features hidden tokens are compared with."""
    chosen = EXPERIMENT.representation.encoders if EXPERIMENT.representation else []
    return list(EXPERIMENT.encoders) if chosen is None else chosen


def existing(option, path):
    """`path`, which `option` names; without such a file planning ends."""
    return path if Path(path).is_file() else refuse(f"{option}: there is no file {path}; correct the path")


def published_numbers(wildcards):
    """[the CSV of published numbers] if the config names one."""
    return [existing("report.published", EXPERIMENT.report.published)] if EXPERIMENT.report.published else []


def checkpoint_file(wildcards):
    """The official code's file, which is needed until it is imported."""
    within_plan(TARGETS.require_milestone, wildcards.checkpoint, wildcards.seed, wildcards.step)
    file = EXPERIMENT.checkpoints[wildcards.checkpoint].file
    imported = PATHS.milestone(wildcards.checkpoint, wildcards.seed, wildcards.step).exists()
    return file if imported else existing(f"checkpoints.{wildcards.checkpoint}.file", file)


def no_benchmark(wildcards):
    """Input of the method benchmark's targets where there is none."""
    refuse("benchmark: this config has no section `benchmark`; add one: --configfile config/mini.yaml config/benchmark.yaml")
