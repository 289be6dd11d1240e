"""The samples of each training step, and the data read for them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vrpo.data.kinds import FEATURES, LATENTS, require_form
from vrpo.data.quantisation import STORED_TYPES, decode, scale_name
from vrpo.data.shards import StoredArrays, open_arrays
from vrpo.errors import UserError
from vrpo.seeds import numpy_generator


def sample_indices(count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Indices int64 `[batch_size]` of the samples of step `step` (0, 1, ...) out of `count`.

    Steps read consecutively from an endless row of permutations, one per epoch. So every sample is
    seen equally often, and batches run across the ends of epochs.
    """
    if count < 1 or batch_size < 1 or step < 0:
        raise ValueError(
            f"count {count} and batch_size {batch_size} must be positive, step {step} not negative"
        )
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epochs, offsets = np.divmod(positions, count)
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
    """Data of B images: the moments of their latents, labels, and each encoder's tokens."""

    mean: Tensor  # [B, C, h, w] float32, scaled
    std: Tensor  # [B, C, h, w] float32, scaled
    labels: Tensor  # [B] int64
    tokens: dict[str, Tensor]
    """Encoder -> [B, N, D] float32, not normalised; [B, 1 + N, D] with the class token first."""
    attention: dict[str, Tensor] = field(default_factory=dict)
    """Encoder -> queries and keys [B, L, 2, heads, N, D / heads] float32 of L blocks."""


ORIGIN = ("images", "sha256", "scale", "shift", "image_size", "attention", "class_token")
"""Attributes of latents and features that decide their values, except for rounding."""

StoredBatch = dict[str, Tensor]
"""Rows of B images as they are stored.

Keys: `labels`, `mean`, `std`, and for each encoder e `tokens:e`, `class_token:e` and
`attention:e`, with `tokens_scale:e` and `attention_scale:e` where int8 or float8.
"""


class ComputedFeatures(Protocol):
    """Features that are computed from images when a batch is read, instead of stored ones.

    See vrpo/models/online.py.
    """

    path: Path
    images: StoredArrays  # with `images` uint8 [N, H, W, 3]
    attributes: dict[str, Any]  # as of stored features
    fingerprint: str

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the array that would be stored under `name`."""
        ...

    def encode(self, pixels: Tensor, name: str) -> Tensor:
        """The values of `shape` float32 of images uint8 `[B, H, W, 3]`, on their device."""
        ...


class TrainingData:
    """Latents and encoder features of one set of images, read by index.

    Args:
        latents: output of `encode_latents`, a file or a folder of shards.
        features: of each encoder, output of `encode_features`, or an object that computes it.

    Raises:
        UserError: a file is missing, damaged, the output of another stage, or of other images.
    """

    def __init__(
        self, latents: Path | str, features: Mapping[str, Path | str | ComputedFeatures]
    ) -> None:
        self.latents = open_arrays(latents, LATENTS)
        require_form(
            self.latents, "std", self.latents.shape("mean"), (self.latents.dtype("mean").name,)
        )
        self.features = {
            encoder: _stored_features(given) if isinstance(given, Path | str) else given
            for encoder, given in features.items()
        }
        self.count, *latent_shape = self.latents.shape("mean")
        self.latent_shape: tuple[int, int, int] = tuple(latent_shape)
        self.feature_shapes: dict[str, tuple[int, int]] = {
            encoder: arrays.shape("tokens")[1:] for encoder, arrays in self.features.items()
        }
        self.attention_blocks = {
            encoder: arrays.shape("attention")[1] if "attention" in arrays else 0
            for encoder, arrays in self.features.items()
        }
        self.labels = self.latents.rows("labels", slice(None))
        for arrays in self.features.values():
            check_same_images(self.latents, "mean", arrays, "tokens")

    def origin(self) -> dict[str, Any]:
        """Origin of the latents and of each encoder's features, except for rounding; JSON-able."""
        features = {name: _origin(arrays.attributes) for name, arrays in self.features.items()}
        return {"latents": _origin(self.latents.attributes), "features": features}

    def gather(self, indices: np.ndarray, attention: bool = False) -> LatentBatch:
        """Read and decode the samples `indices` int64 `[B]` on the CPU.

        With `attention`, the batch has the encoders' queries and keys.
        """
        return self.decode(self.read(indices, attention=attention))

    def class_tokens(self, encoder: str, indices: np.ndarray) -> Tensor:
        """Class tokens [B, D] float32 of the samples `indices` int64 `[B]`, on the CPU.

        Raises:
            UserError: the encoder's features are not there, or hold none.
        """
        if encoder not in self.features or "class_token" not in self.features[encoder]:
            raise UserError(
                f"--features: no class tokens of encoder `{encoder}`, which the network denoises; "
                f"set `encoders.{encoder}.class_token: true`, encode again and give {encoder}=FILE"
            )
        source = self.features[encoder]
        if isinstance(source, StoredArrays):
            return torch.from_numpy(source.rows("class_token", indices)).float()
        images = torch.from_numpy(source.images.rows("images", indices))
        return source.encode(images, "class_token")

    def stored(
        self,
        *,
        encoders: Sequence[str] | None = None,
        attention: bool = False,
        class_token: bool = False,
        moments: bool = True,
    ) -> dict[str, tuple[StoredArrays, str]]:
        """Arrays that are read for a batch.

        Args:
            encoders: whose features; None: all.
            attention: with the encoders' queries and keys.
            class_token: with the encoders' class tokens.
            moments: with the latents' `mean` and `std`.

        Returns:
            For each key of `StoredBatch`, the file and the array's name in it.
        """
        arrays = {name: (self.latents, name) for name in ("mean", "std")} if moments else {}
        for encoder in self.features if encoders is None else encoders:
            source = self.features[encoder]
            is_stored = isinstance(source, StoredArrays)
            names = ["tokens", *["attention"] * attention, *["class_token"] * class_token]
            for name in names:
                key, scale = f"{name}:{encoder}", scale_name(name)
                arrays[key] = (source, name) if is_stored else (source.images, "images")
                if scale in source:
                    arrays[f"{name}_scale:{encoder}"] = (source, scale)
        return arrays

    def read(
        self, indices: np.ndarray, into: Mapping[str, Tensor] | None = None, **wanted: Any
    ) -> StoredBatch:
        """Read the samples `indices` int64 `[B]` as they are stored, with labels.

        Args:
            indices: of the samples.
            into: CPU tensors `[B, ...]` of the stored types to read into, by key; None: new ones.
            wanted: arguments of `stored`.
        """
        batch = {"labels": torch.from_numpy(self.labels[indices])}
        for key, (arrays, name) in self.stored(**wanted).items():
            out = None if into is None else into[key].numpy()
            batch[key] = torch.from_numpy(arrays.rows(name, indices, out))
        return batch

    def decode(self, batch: StoredBatch) -> LatentBatch:
        """float32 values of a batch of `read` (with moments), on its device."""
        decoded: dict[str, dict[str, Tensor]] = {"tokens": {}, "attention": {}, "class_token": {}}
        for key, values in batch.items():
            name, _, encoder = key.partition(":")
            if name not in decoded:
                continue
            source = self.features[encoder]
            if isinstance(source, StoredArrays):
                scale = batch.get(f"{name}_scale:{encoder}")
                stored = source.attributes.get("storage", "")
                storage = "float16" if name == "class_token" else stored
                decoded[name][encoder] = decode(values, scale, storage)
            else:
                decoded[name][encoder] = source.encode(values, name)
        for encoder, first in decoded.pop("class_token").items():
            tokens = decoded["tokens"]
            tokens[encoder] = torch.cat([first[:, None], tokens[encoder]], dim=1)
        return LatentBatch(batch["mean"].float(), batch["std"].float(), batch["labels"], **decoded)


def _origin(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: attributes[key] for key in ORIGIN if key in attributes}


def _stored_features(path: Path | str) -> StoredArrays:
    """Stored features; their attribute `storage` gives their types.

    Without it, tokens may have any type that has one meaning.
    """
    arrays = open_arrays(path, FEATURES)
    types = {stored: storage for storage, stored in STORED_TYPES.items() if storage == stored}
    storage = arrays.attributes.get("storage") or types.get(arrays.dtype("tokens").name)
    if storage not in STORED_TYPES:
        raise UserError(
            f"{path}: stored as `{storage}`, which is none of {', '.join(STORED_TYPES)}; "
            "delete it and rebuild it"
        )
    for name, axes in (("tokens", 3), ("attention", 6)):
        if name in arrays:
            require_form(arrays, name, axes, (STORED_TYPES[storage],))
            if storage != "float16":
                require_form(arrays, scale_name(name), arrays.shape(name)[:-1], ("float16",))
    if "class_token" in arrays:
        count, _, channels = arrays.shape("tokens")
        require_form(arrays, "class_token", (count, channels), ("float16",))
    return arrays


def check_same_images(
    first: StoredArrays,
    first_array: str,
    second: StoredArrays | ComputedFeatures,
    second_array: str,
) -> None:
    """Check that two files have equally many rows, made from the same images.

    Raises:
        UserError: they do not; names both.
    """
    count, images = first.shape(first_array)[0], first.attributes.get("images")
    other_count, other_images = second.shape(second_array)[0], second.attributes.get("images")
    if (count, images) != (other_count, other_images):
        raise UserError(
            f"{second.path}: made from other images than {first.path} "
            f"({other_count} rows of images {str(other_images)[:12]}, "
            f"against {count} of {str(images)[:12]}); "
            "delete the older of the two and rebuild it"
        )
