"""Runs of an experiment's config as they are timed: options, shapes, random networks, FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.geometry import latent_side
from vrpo.config.messages import require_known
from vrpo.config.resolved import RunConfig
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.models.backbones import build_network
from vrpo.processes.registry import build_process
from vrpo.report.cost import encoder_tokens
from vrpo.seeds import derive_seed
from vrpo.training.building import build_objective
from vrpo.training.objective import Objective

Network = TypeVar("Network", bound=nn.Module)


def timed_run(config: ExperimentConfig, name: str) -> RunConfig:
    """A run, resolved for the first of its seeds.

    Raises:
        UserError: there is no such run, or its data cannot be made up.
    """
    try:
        require_known("RUN", name, config.runs, "runs")
    except ValueError as error:
        raise UserError(str(error)) from None
    run = config.run_config(name, config.seeds_of(name)[0])
    if run.alignment.attention_of:
        raise UserError(
            f"runs.{name}: alignment `{config.runs[name].alignment}` reads attention of the "
            "encoder, which the synthetic features do not have; name a run of another alignment"
        )
    for encoder in run.alignment.encoders:
        if config.encoders[encoder].features == "online":
            raise UserError(
                f"encoders.{encoder}.features: tokens that are computed `online` are not timed; "
                f"give --set encoders.{encoder}.features=cached"
            )
    return run


def latent_shape(config: ExperimentConfig) -> tuple[int, int, int]:
    """Shape (C, h, w) of the tokenizer's latents."""
    side = latent_side(config)
    return config.tokenizer.latent_channels, side, side


def token_shape(config: ExperimentConfig, encoder: str) -> tuple[int, int]:
    """Shape (N, D) of an encoder's tokens.

    Raises:
        UserError: the options of the encoder do not tell it.
    """
    count, width, _ = encoder_tokens(config.encoders[encoder])
    return count, width


def random_network(config: ExperimentConfig, run: RunConfig) -> nn.Module:
    """The run's network with random weights, the same in every process."""
    shape = latent_shape(config)
    channels = build_process(run.process).prediction_channels(shape[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("bench", run.model.name))
        return without_zeros(build_network(run.model, shape, channels), run)


def random_objective(
    run: RunConfig, data: TrainingData, critics: Mapping[str, Path], device: torch.device
) -> Objective:
    """The run's network and alignment with random weights, the same in every process.

    Args:
        run: of an experiment.
        data: latents, and features of the alignment's encoders.
        critics: files of latent critics by encoder, of all encoders if the alignment needs any.
        device: where critics are put.
    """
    own = {name: path for name, path in critics.items() if name in run.alignment.encoders}
    objective = build_objective(run, data, own, device)
    without_zeros(objective.network, run)
    return objective


@torch.no_grad()
def without_zeros(network: Network, run: RunConfig) -> Network:
    """`network` after a little noise on all weights.

    Gates and output begin at zero: an untrained network would be easier arithmetic.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("bench-weights", run.model.name))
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return network
