"""Latents, features and critics of no image, as large as the config's: as fast as real ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.experiment import latent_shape, token_shape
from vrpo.config.experiment import ExperimentConfig
from vrpo.data.arrays import ArrayWriter
from vrpo.data.batches import TrainingData
from vrpo.data.quantisation import STORED_TYPES, encode
from vrpo.models.checkpoints import save_network
from vrpo.models.critic import LatentCritic
from vrpo.seeds import derive_seed, numpy_generator

ROWS = 64
SCALE = 0.02  # of the tokens
IMAGES = {"images": "synthetic"}


def write_training_data(
    config: ExperimentConfig, encoders: Iterable[str], folder: Path, count: int
) -> TrainingData:
    """Write moments and tokens of `count` samples, stored as `config` says, and open them.

    Raises:
        UserError: the shape of an encoder's tokens is not known.
    """
    _write_latents(config, folder / "latents.h5", count)
    features = {name: folder / f"features-{name}.h5" for name in dict.fromkeys(encoders)}
    for name, path in features.items():
        _write_features(config, name, path, count)
    return TrainingData(folder / "latents.h5", features)


def write_critics(config: ExperimentConfig, data: TrainingData, folder: Path) -> dict[str, Path]:
    """Write a latent critic with random weights for each encoder of `data`."""
    critics = {}
    for name, tokens in data.feature_shapes.items():
        size = {"width": config.critic.width, "depth": config.critic.depth}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("bench-critic", name))
            critic = LatentCritic(data.latent_shape, tokens, **size)
        description = {
            "kind": "critic",
            "latent_shape": data.latent_shape,
            "tokens": tokens,
            **size,
            "latents": data.latents.fingerprint,
            "features": data.features[name].fingerprint,
        }
        critics[name] = folder / f"critic-{name}.safetensors"
        save_network(critics[name], critic.state_dict(), description)
    return critics


def _write_latents(config: ExperimentConfig, path: Path, count: int) -> None:
    generator = numpy_generator("bench-data", "latents")
    shape, stored = latent_shape(config), config.tokenizer.storage
    shapes = {
        "mean": ((count, *shape), stored),
        "std": ((count, *shape), stored),
        "labels": ((count,), "int64"),
    }
    with ArrayWriter(path, shapes, IMAGES) as writer:
        for rows in writer.batches(ROWS):
            size = rows.stop - rows.start
            mean = generator.standard_normal((size, *shape), dtype=np.float32).astype(stored)
            labels = generator.integers(0, config.data.num_classes, size)
            arrays = {"mean": mean, "std": np.full_like(mean, 0.1), "labels": labels}
            writer.write(rows.start, arrays)
        writer.finish()


def _write_features(config: ExperimentConfig, encoder: str, path: Path, count: int) -> None:
    generator = numpy_generator("bench-data", encoder)
    options, shape = config.encoders[encoder], token_shape(config, encoder)
    shapes = {"tokens": ((count, *shape), STORED_TYPES[options.storage])}
    if options.storage != "float16":
        shapes["scale"] = ((count, shape[0]), "float16")
    about = {"encoder": encoder, "storage": options.storage, "image_size": options.image_size}
    with ArrayWriter(path, shapes, {**IMAGES, **about}) as writer:
        for rows in writer.batches(ROWS):
            levels = generator.integers(-127, 128, (rows.stop - rows.start, *shape), dtype=np.int8)
            tokens, scale = encode(torch.from_numpy(levels).float() * SCALE, options.storage)
            arrays = {"tokens": tokens.numpy()}
            writer.write(
                rows.start, arrays if scale is None else {**arrays, "scale": scale.numpy()}
            )
        writer.finish()
