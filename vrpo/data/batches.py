"""Which samples a training step takes, and what is read for them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vrpo.data.arrays import Arrays
from vrpo.errors import UserError
from vrpo.seeds import numpy_generator


def sample_indices(count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Indices int64 `[batch_size]` of the samples of step `step` (0, 1, ...) of a data set of `count`.

    Steps read one after the other from an endless row of permutations, one an epoch, so every sample is seen equally often and batches run
    across the ends of epochs. A pure function: nothing but (seed, step) has to be kept to go on.
    """
    if count < 1 or batch_size < 1 or step < 0:
        raise ValueError(f"count {count} and batch_size {batch_size} must be positive, step {step} not negative")
    epochs, offsets = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64), count)
    indices = np.empty(batch_size, dtype=np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        indices[here] = _permutation(count, seed, epoch)[offsets[here]]
    return indices


@functools.lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    permutation = numpy_generator("order", seed, epoch).permutation(count)
    permutation.setflags(write=False)
    return permutation


@dataclass(frozen=True)
class LatentBatch:
    """What a step reads for B images: the moments of their latents, labels, and each encoder's tokens (CPU tensors)."""

    mean: Tensor  # [B, C, h, w] float32, scaled
    std: Tensor  # [B, C, h, w] float32, scaled
    labels: Tensor  # [B] int64
    tokens: dict[str, Tensor]  # encoder -> [B, N, D] float32, not normalised
    attention: dict[str, Tensor] = field(default_factory=dict)  # encoder -> queries and keys [B, L, 2, heads, N, D / heads] float32 of L blocks


class TrainingData:
    """Latents and encoder features of one set of images, read by index from memory maps.

    Args:
        latents: file of `encode_latents`.
        features: file of `encode_features` of each encoder.

    Raises:
        UserError: a file is missing or truncated, is the output of another stage, or belongs to other images than the latents.
    """

    def __init__(self, latents: Path | str, features: Mapping[str, Path | str]) -> None:
        self.latents = Arrays(latents)
        self.features = {encoder: Arrays(path) for encoder, path in features.items()}
        self.count, *latent_shape = self.latents.shape("mean")
        self.latent_shape: tuple[int, int, int] = tuple(latent_shape)
        self.feature_shapes: dict[str, tuple[int, int]] = {encoder: arrays.shape("tokens")[1:] for encoder, arrays in self.features.items()}
        self.attention_blocks = {encoder: arrays.shape("attention")[1] if "attention" in arrays else 0 for encoder, arrays in self.features.items()}
        self.labels = np.array(self.latents["labels"])
        for arrays in self.features.values():
            check_same_images(self.latents, "mean", arrays, "tokens")

    def gather(self, indices: np.ndarray, attention: bool = False) -> LatentBatch:
        """Read the samples `indices` int64 `[B]`; with `attention`, the encoders' queries and keys too."""
        return LatentBatch(
            mean=_take(self.latents["mean"], indices).float(),
            std=_take(self.latents["std"], indices).float(),
            labels=torch.from_numpy(self.labels[indices]),
            tokens={encoder: read_tokens(arrays, indices) for encoder, arrays in self.features.items()},
            attention={encoder: read_tokens(arrays, indices, "attention") for encoder, arrays in self.features.items()} if attention else {},
        )


def check_same_images(first: Arrays, first_array: str, second: Arrays, second_array: str) -> None:
    """Check that two files hold as many rows, made from the same images.

    Raises:
        UserError: they do not; names both.
    """
    counts = first.shape(first_array)[0], second.shape(second_array)[0]
    fingerprints = first.attributes.get("images"), second.attributes.get("images")
    if counts[0] != counts[1] or fingerprints[0] != fingerprints[1]:
        raise UserError(
            f"{second.path}: made from other images than {first.path} ({counts[1]} rows of images {str(fingerprints[1])[:12]}, "
            f"against {counts[0]} of {str(fingerprints[0])[:12]}); delete the older of the two and make it again"
        )


def read_tokens(arrays: Arrays, indices: np.ndarray, name: str = "tokens") -> Tensor:
    """Encoder tokens `[B, N, D]` float32 of the samples `indices`, or what `name` says: int8 times the token's scale, or float16 as it is."""
    tokens = _take(arrays[name], indices).float()
    scale = "scale" if name == "tokens" else f"{name}_scale"
    if scale in arrays:
        tokens *= _take(arrays[scale], indices).float().unsqueeze(-1)  # (B, N, D) * (B, N, 1)
    return tokens


def _take(array: np.ndarray, indices: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array)[indices])
