"""The one protocol of feature networks."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

SPATIAL_CHANNELS = 7
"""Channels of a middle layer that sFID takes."""


class Features(NamedTuple):
    """Features of one batch, float32 on the CPU."""

    pool: Tensor
    """[B, D], what enters the last layer."""
    logits: Tensor | None = None
    """[B, K] without bias; None: the network does not classify."""
    spatial: Tensor | None = None
    """[B, S], seven channels of a middle layer in NHWC order; None: it has none."""


class FeatureNetwork(Protocol):
    """A frozen network that turns images into features."""

    sha256: str
    warnings: list[str]

    def features(self, images: Tensor) -> Features:
        """Features of uint8 `images` [B, 3, H, W]."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-able description; equal descriptions give equal features."""
        ...
