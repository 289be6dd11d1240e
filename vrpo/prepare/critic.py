"""Distilling the latent perceptual critic from the cached encoder features."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vrpo.data.batches import TrainingData, sample_indices
from vrpo.models.checkpoints import save_network
from vrpo.models.critic import LatentCritic
from vrpo.models.online import open_features
from vrpo.prepare.classifier import HELD_OUT_EVERY
from vrpo.prepare.fitting import fit, initial_weights
from vrpo.seeds import torch_generator

if TYPE_CHECKING:
    from vrpo.config.networks import CriticOptions

log = logging.getLogger(__name__)
ENCODER = "encoder"


def fit_critic(
    options: CriticOptions,
    latents: Path | str,
    features: Path | str,
    output: Path | str,
    device: torch.device | str,
) -> None:
    """Distil a critic: its tokens of sampled latents are trained towards the encoder's tokens.

    The loss is the mean of -cos; latents are drawn from their posterior. The description holds
    `latent_shape`, `tokens`, `width`, `depth`, the fingerprints of `latents` and `features`, and
    `cosine`: the mean over every tenth image, which is left out of the training.

    Raises:
        UserError: a file is missing or damaged, or the two were made from different images.
    """
    data = TrainingData(latents, {ENCODER: open_features(features, device)})
    tokens = data.feature_shapes[ENCODER]
    seed = options.training.seed
    with initial_weights("critic-weights", seed):
        critic = LatentCritic(data.latent_shape, tokens, options.width, options.depth).to(device)
    kept = np.flatnonzero(np.arange(data.count) % HELD_OUT_EVERY)

    def loss_of_step(step: int) -> Tensor:
        indices = kept[sample_indices(len(kept), options.training.batch_size, seed, step)]
        return -_cosine(critic, data, indices, torch_generator("critic-noise", seed, step), device)

    fit(critic, options.training, loss_of_step, "critic")
    cosine = _held_out_cosine(critic, data, options.training.batch_size, seed, device)
    log.info(
        "critic: held-out cosine %.4f (every %dth image, not trained on)", cosine, HELD_OUT_EVERY
    )
    description = {
        "kind": "critic",
        "latent_shape": data.latent_shape,
        "tokens": tokens,
        "width": options.width,
        "depth": options.depth,
        "cosine": round(cosine, 6),
        "latents": data.latents.fingerprint,
        "features": data.features[ENCODER].fingerprint,
        "training": options.training.model_dump(mode="json"),
    }
    save_network(output, critic.state_dict(), description)


def _cosine(
    critic: LatentCritic,
    data: TrainingData,
    indices: np.ndarray,
    generator: torch.Generator,
    device: torch.device | str,
) -> Tensor:
    batch = data.gather(indices)
    latents = batch.mean + batch.std * torch.randn(batch.mean.shape, generator=generator)
    target = F.normalize(batch.tokens[ENCODER].to(device), dim=-1)
    return (critic(latents.to(device)) * target).sum(dim=-1).mean()


@torch.inference_mode()
def _held_out_cosine(
    critic: LatentCritic, data: TrainingData, batch_size: int, seed: int, device: torch.device | str
) -> float:
    held_out = np.arange(0, data.count, HELD_OUT_EVERY)
    total = 0.0
    for start in range(0, len(held_out), batch_size):
        indices = held_out[start : start + batch_size]
        generator = torch_generator("critic-held-out", seed, start)
        total += len(indices) * _cosine(critic, data, indices, generator, device).item()
    return total / len(held_out)
