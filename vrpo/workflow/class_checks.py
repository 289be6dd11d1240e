"""Checks of what an experiment has beside the package: custom losses and networks, trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.geometry import latent_side
from vrpo.config.resolved import RunConfig
from vrpo.errors import UserError


def class_checks(config: ExperimentConfig) -> Iterator[tuple[str, Callable[[], str]]]:
    """Find the trackers, try the custom losses of runs, and construct custom networks."""
    if config.tracking.trackers:
        yield "trackers", partial(_trackers, config.tracking.trackers)
    losses, networks = {}, {}
    for run, row in config.runs.items():
        resolved = config.run_config(run, config.seeds_of(run)[0])
        if resolved.alignment.kind == "custom":
            losses.setdefault((row.alignment, resolved.model.name), resolved)
        if getattr(resolved.model, "backbone", None):
            networks.setdefault(f"network {resolved.model.name}", resolved)
    for (name, model), resolved in losses.items():
        what = f"loss of {name}, {model}"
        yield what, partial(_loss, config, f"alignments.{name}.loss", resolved)
    for what, resolved in networks.items():
        yield what, partial(_network, config, resolved)


def _trackers(names: list[str]) -> str:
    from vrpo.tracking.backends import require_installed

    require_installed(names)
    return f"{', '.join(names)} can be imported"


def _loss(config: ExperimentConfig, where: str, run: RunConfig) -> str:
    """Try a custom loss, named at `where`, on random values, if its encoders' widths are known."""
    from vrpo.alignment.base import Alignment, AlignmentContext
    from vrpo.alignment.trial import try_loss
    from vrpo.models.backbones import import_class
    from vrpo.report.cost import encoder_tokens

    options, model, side = run.alignment, run.model, latent_side(config)
    loss_class = import_class(options.loss, Alignment, where)
    name = loss_class.__name__
    count = (side // model.patch_size) ** 2
    try:
        widths = [encoder_tokens(config.encoders[each])[1] for each in options.encoders]
    except UserError:
        return f"{name} can be imported; it was not tried, as its encoder's width is not known"
    shapes = dict(zip(options.encoders, ((count, width) for width in widths), strict=True))
    latent_shape = config.tokenizer.latent_channels, side, side
    context = AlignmentContext(latent_shape, model.width, shapes)
    settings = {
        "tokens": count,
        "depth": model.depth,
        "precision": run.training.precision,
        "batch": run.training.micro_batch(1, options.group),
    }
    try:
        trained = try_loss(loss_class, options, context, **settings)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if trained is None:
        return f"{name} can be built; it was not tried, as it reads attention"
    gradient = f"a gradient for {', '.join(trained)}" if trained else "no gradient for the network"
    return f"{name} runs on random values, and has {gradient}"


def _network(config: ExperimentConfig, run: RunConfig) -> str:
    import torch

    from vrpo.models.backbones import build_network
    from vrpo.processes.registry import build_process

    channels, side = config.tokenizer.latent_channels, latent_side(config)
    out = build_process(run.process).prediction_channels(channels)
    with torch.device("meta"):  # shapes, no memory
        build_network(run.model, (channels, side, side), out)
    return "can be built"
