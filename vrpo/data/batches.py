"""Which samples a training step takes, and what is read for them."""

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
    """Indices int64 `[batch_size]` of the samples of step `step` (0, 1, ...) of a data set of `count`.

    Steps read one after the other from an endless row of permutations, one an epoch, so every sample is seen equally often and batches run
    across the ends of epochs. A pure function: nothing but (seed, step) has to be kept to go on.
    """
    if count < 1 or batch_size < 1 or step < 0:
        raise ValueError(
            f"count {count} and batch_size {batch_size} must be positive, step {step} not negative"
        )
    epochs, offsets = np.divmod(
        np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64), count
    )
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
    tokens: dict[str, Tensor]  # encoder -> [B, N, D] float32, not normalised
    attention: dict[str, Tensor] = field(
        default_factory=dict
    )  # encoder -> queries and keys [B, L, 2, heads, N, D / heads] float32 of L blocks


ORIGIN = ("images", "sha256", "scale", "shift", "image_size", "attention")
"""Attributes of latents and features that decide their values, but for rounding."""

StoredBatch = dict[str, Tensor]
"""Rows of B images as they are stored: `labels`, `mean`, `std`, and for each encoder e `tokens:e` and `attention:e`, with `tokens_scale:e` ... where int8."""


class ComputedFeatures(Protocol):
    """Features that are computed from the images when a batch is taken (vrpo/models/online.py), in the place of stored ones."""

    path: Path
    images: StoredArrays  # with `images` uint8 [N, H, W, 3]
    attributes: dict[str, Any]  # as of stored features
    fingerprint: str

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of what would be stored under `name`."""
        ...

    def encode(self, pixels: Tensor, name: str) -> Tensor:
        """`tokens` or `attention` float32 `[B, ...]` of images uint8 `[B, H, W, 3]`, on their device."""
        ...


class TrainingData:
    """Latents and encoder features of one set of images, read by index.

    Args:
        latents: output of `encode_latents`, a file or a folder of shards.
        features: output of `encode_features` of each encoder, or what computes it.

    Raises:
        UserError: a file is missing, truncated or damaged, is the output of another stage, or belongs to other images than the latents.
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
        """Origin of the latents and of each encoder's features, up to rounding; JSON-able."""
        features = {
            encoder: _origin(arrays.attributes) for encoder, arrays in self.features.items()
        }
        return {"latents": _origin(self.latents.attributes), "features": features}

    def gather(self, indices: np.ndarray, attention: bool = False) -> LatentBatch:
        """Read and decode the samples `indices` int64 `[B]` on the CPU; with `attention`, the encoders' queries and keys too."""
        return self.decode(self.read(indices, attention=attention))

    def stored(
        self,
        *,
        encoders: Sequence[str] | None = None,
        attention: bool = False,
        moments: bool = True,
    ) -> dict[str, tuple[StoredArrays, str]]:
        """Which arrays are read for a batch: key of `StoredBatch` to file and name in it. `encoders` None: all; without `moments`, no latents."""
        arrays = {name: (self.latents, name) for name in ("mean", "std")} if moments else {}
        for encoder in self.features if encoders is None else encoders:
            source = self.features[encoder]
            for name in ("tokens", "attention") if attention else ("tokens",):
                arrays[f"{name}:{encoder}"] = (
                    (source, name)
                    if isinstance(source, StoredArrays)
                    else (source.images, "images")
                )
                scale = scale_name(name)
                if scale in source:
                    arrays[f"{name}_scale:{encoder}"] = (source, scale)
        return arrays

    def read(
        self, indices: np.ndarray, into: Mapping[str, Tensor] | None = None, **wanted: Any
    ) -> StoredBatch:
        """Read the samples `indices` int64 `[B]` as they are stored, with labels.

        Args:
            indices: which samples.
            into: CPU tensors `[B, ...]` of the stored types to read into, by key; None: new ones.
            wanted: as of `stored`.
        """
        batch = {"labels": torch.from_numpy(self.labels[indices])}
        for key, (arrays, name) in self.stored(**wanted).items():
            out = None if into is None else into[key].numpy()
            batch[key] = torch.from_numpy(arrays.rows(name, indices, out))
        return batch

    def decode(self, batch: StoredBatch) -> LatentBatch:
        """float32 values of what `read` gave (with moments), on the device where it is."""
        decoded: dict[str, dict[str, Tensor]] = {"tokens": {}, "attention": {}}
        for key, values in batch.items():
            name, _, encoder = key.partition(":")
            if name in decoded:
                source = self.features[encoder]
                if isinstance(source, StoredArrays):
                    decoded[name][encoder] = decode(
                        values,
                        batch.get(f"{name}_scale:{encoder}"),
                        source.attributes.get("storage", ""),
                    )
                else:
                    decoded[name][encoder] = source.encode(values, name)
        return LatentBatch(batch["mean"].float(), batch["std"].float(), batch["labels"], **decoded)


def _origin(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: attributes[key] for key in ORIGIN if key in attributes}


def _stored_features(path: Path | str) -> StoredArrays:
    """Stored features, of the types that their attribute `storage` tells; without it, tokens whose type has one meaning."""
    arrays = open_arrays(path, FEATURES)
    types = {stored: storage for storage, stored in STORED_TYPES.items() if storage == stored}
    storage = arrays.attributes.get("storage") or types.get(arrays.dtype("tokens").name)
    if storage not in STORED_TYPES:
        raise UserError(
            f"{path}: stored as `{storage}`, which is none of {', '.join(STORED_TYPES)}; delete it and make it again"
        )
    for name, axes in (("tokens", 3), ("attention", 6)):
        if name in arrays:
            require_form(arrays, name, axes, (STORED_TYPES[storage],))
            if storage != "float16":
                require_form(arrays, scale_name(name), arrays.shape(name)[:-1], ("float16",))
    return arrays


def check_same_images(
    first: StoredArrays,
    first_array: str,
    second: StoredArrays | ComputedFeatures,
    second_array: str,
) -> None:
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
