"""The network, process and alignment of a run, built for its data and checked against it."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from vrpo.alignment.base import AlignmentContext
from vrpo.alignment.registry import build_alignment
from vrpo.config import RunConfig
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.models.backbones import build_network
from vrpo.models.critic import LatentCritic, load_critic
from vrpo.processes.registry import build_process
from vrpo.seeds import derive_seed
from vrpo.training.objective import Objective


def build_objective(
    config: RunConfig, data: TrainingData, critics: dict[str, Path], device: torch.device
) -> Objective:
    """Network, process and alignment of a run, initialised from its seed.

    Runs that differ in alignment start from the same network.

    Raises:
        UserError: features or critics are missing, or do not fit the run.
    """
    process, encoders = build_process(config.process), config.alignment.encoders
    _check_features(config, data)
    needs_critic = config.alignment.needs_critic
    if needs_critic and set(critics) != set(encoders):
        raise UserError(
            f"--critic: run {config.run} needs a latent critic for each of {', '.join(encoders)}; "
            "give NAME=FILE for each"
        )
    used = critics if needs_critic else {}
    context = AlignmentContext(
        latent_shape=data.latent_shape,
        width=config.model.width,
        tokens={name: data.feature_shapes[name] for name in encoders},
        critics={name: _fitting_critic(path, data, name, device) for name, path in used.items()},
    )
    class_token = _class_token(config, data) if config.alignment.needs_class_token else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("network-weights", config.seed))
        out_channels = process.prediction_channels(data.latent_shape[0])
        network = build_network(config.model, data.latent_shape, out_channels, class_token)
        torch.manual_seed(derive_seed("alignment-weights", config.seed))
        alignment = build_alignment(config.alignment, context)
    wanted = len(alignment.attention_of)
    for name in encoders:
        if wanted and data.attention_blocks[name] != wanted:
            raise UserError(
                f"--features {name}: {data.features[name].path} holds the attention of "
                f"{data.attention_blocks[name]} blocks, the alignment of run {config.run} "
                f"reads {wanted}; name them in `encoders.{name}.attention` and encode again"
            )
    _check_grids(config, data)
    return Objective(network, alignment, process, config.training)


def _check_features(config: RunConfig, data: TrainingData) -> None:
    """Check that the features of each encoder are there, and are its own."""
    for name in config.alignment.encoders:
        if name not in data.feature_shapes:
            raise UserError(
                f"--features: the features of encoder `{name}` are missing, "
                f"the alignment of run {config.run} reads them; give {name}=FILE"
            )
        features = data.features[name]
        made_by = features.attributes.get("encoder", name)
        if made_by != name:
            raise UserError(
                f"--features {name}: {features.path} holds the tokens of encoder `{made_by}`; "
                f"give those of `{name}`"
            )


def _class_token(config: RunConfig, data: TrainingData) -> int:
    """Channels of the class token of the alignment's encoder."""
    (name,) = config.alignment.encoders
    if "class_token" not in data.features[name]:
        raise UserError(
            f"--features {name}: {data.features[name].path} holds no class token, which the "
            f"alignment of run {config.run} denoises; set `encoders.{name}.class_token: true` and "
            "encode again"
        )
    return data.feature_shapes[name][1]


def _check_grids(config: RunConfig, data: TrainingData) -> None:
    """Check that each encoder has as many tokens as the network."""
    _, height, width = data.latent_shape
    grid = height // config.model.patch_size
    for name in config.alignment.encoders:
        tokens = data.feature_shapes[name][0]
        if tokens != grid**2:
            raise UserError(
                f"encoders.{name}: gives {tokens} tokens an image, but {config.model.name} on "
                f"latents of {height}x{width} has {grid}x{grid}; "
                f"set encoders.{name}.image_size to {_fitting_size(data, name, grid)}"
            )


def _fitting_size(data: TrainingData, encoder: str, grid: int) -> str:
    """The image size at which an encoder would have `grid` x `grid` tokens."""
    patches, tokens = f"{grid} of its patches", data.feature_shapes[encoder][0]
    image_size, side = data.features[encoder].attributes.get("image_size"), math.isqrt(tokens)
    if not image_size or side**2 != tokens:
        return patches
    return f"{image_size // side * grid}, {patches}"


def _fitting_critic(
    path: Path, data: TrainingData, encoder: str, device: torch.device
) -> LatentCritic:
    critic = load_critic(path, device)
    for made_from, arrays in (("latents", data.latents), ("features", data.features[encoder])):
        if critic.description[made_from] != arrays.fingerprint:
            raise UserError(
                f"{path}: distilled from other {made_from} than {arrays.path}; "
                "delete it and distil again"
            )
    return critic
