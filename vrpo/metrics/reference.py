"""Reference of the scores: Gaussians of real images' features, and features of some of them.

The latter serve for precision, recall and KID.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vrpo.errors import UserError
from vrpo.metrics.export import write_npz
from vrpo.metrics.features import extract
from vrpo.metrics.inputs import Images
from vrpo.metrics.networks.loading import extra_networks
from vrpo.metrics.networks.protocol import FeatureNetwork
from vrpo.metrics.statistics import Gaussian
from vrpo.seeds import numpy_generator

if TYPE_CHECKING:
    from vrpo.config.scoring import EvaluationOptions

POOL, SPATIAL = ("mu", "sigma"), ("mu_s", "sigma_s")  # names of arrays in ADM's files and ours
SUBSET_SEED = 0


@dataclass(frozen=True)
class Reference:
    """Statistics and features of real images."""

    pool: Gaussian
    spatial: Gaussian | None
    features: Tensor | None  # [R, D], pooled, for precision, recall and KID; None: not known
    description: dict[str, Any]  # network, source, resolution, count, subset, extra
    extra: Mapping[str, Gaussian] = field(default_factory=dict)  # further feature spaces, by name
    extra_features: Mapping[str, Tensor] = field(default_factory=dict)  # [R, D] of a space, by name
    images: Images | None = None  # source of the Gaussians; None where they were read


def with_extra(
    reference: Reference,
    images: Images,
    options: EvaluationOptions,
    weights: Mapping[str, Path],
    device: torch.device | str,
) -> Reference:
    """`reference` with statistics of `images` in further feature spaces (see `extra_networks`)."""
    gaussians, described, features = {}, {}, {}
    subset = subset_indices(images.count, options.reference_images)
    for name, network in extra_networks(options, weights, device):
        kept = options.extra_networks[name].keeps_features
        keep = subset if kept else np.empty(0, dtype=np.int64)
        real = extract(network, images, options.batch_size, keep, f"reference {name}")
        gaussians[name] = real.pool_statistics.gaussian()
        described[name] = {"count": images.count, **network.describe()}
        if kept:
            features[name] = real.pool
            described[name]["kept"] = len(real.pool)
    if not gaussians:
        return reference
    description = {**reference.description, "extra": described}
    return replace(reference, description=description, extra=gaussians, extra_features=features)


def reference_from_images(
    images: Images, network: FeatureNetwork, options: EvaluationOptions
) -> Reference:
    """Statistics of all `images`, and features of `options.reference_images` of them, drawn."""
    subset = subset_indices(images.count, options.reference_images)
    require_enough(len(subset), options, images.path)
    features = extract(network, images, options.batch_size, keep=subset, title="reference")
    pool = features.pool_statistics.gaussian()
    spatial = features.spatial_statistics.gaussian() if features.spatial_statistics else None
    fingerprint = images.attributes.get("fingerprint") or images.digest()
    origin = {"kind": "images", "fingerprint": fingerprint}
    if "fitted" in images.attributes:
        origin["fitted"] = images.attributes["fitted"]
    drawn = describe_subset(subset, images)
    description = describe(network, origin, images.resolution, images.count, drawn)
    return Reference(pool, spatial, features.pool, description, images=images)


def save_reference(reference: Reference, output: Path) -> None:
    """Write `reference` as .npz; equal content gives equal bytes."""
    arrays = {
        "mu": reference.pool.mu.numpy(),
        "sigma": reference.pool.sigma.numpy(),
        "vrpo": np.array(json.dumps(reference.description, sort_keys=True)),
    }
    if reference.features is not None:
        arrays["pool"] = reference.features.numpy()
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mu.numpy(), "sigma_s": reference.spatial.sigma.numpy()}
    for name, gaussian in reference.extra.items():
        arrays |= {f"mu_{name}": gaussian.mu.numpy(), f"sigma_{name}": gaussian.sigma.numpy()}
    arrays |= {f"pool_{name}": rows.numpy() for name, rows in reference.extra_features.items()}
    write_npz(output, arrays)


def require_resolution(side: int, resolution: int, what: str, where: Path | str) -> None:
    """Check that the reference at `where`, of images of `side`, has the `resolution` of `what`.

    Raises:
        UserError: it has not.
    """
    if side != resolution:
        raise UserError(
            f"{where}: its images are {side} x {side}, "
            f"those of {what} {resolution} x {resolution}; "
            "give the reference of that resolution"
        )


def require_enough(count: int, options: EvaluationOptions, where: Path) -> None:
    """Check that `count` images are enough for precision and recall.

    Raises:
        UserError: they are too few.
    """
    if count <= options.neighbours:
        raise UserError(
            f"{where}: {count} images are too few for neighbour {options.neighbours} of precision "
            "and recall; take more images or a smaller `neighbours`"
        )


def subset_indices(count: int, wanted: int) -> np.ndarray:
    """Ascending indices of `wanted` of `count` images (all, if fewer), always the same ones."""
    if wanted >= count:
        return np.arange(count)
    return np.sort(numpy_generator("reference-images", SUBSET_SEED).permutation(count)[:wanted])


def describe_subset(subset: np.ndarray, images: Images) -> dict[str, Any]:
    """Number and seed of the images whose features are kept, for a reference's description."""
    seed = SUBSET_SEED if len(subset) < images.count else None
    return {"images": len(subset), "of": images.count, "seed": seed}


def describe(
    network: FeatureNetwork,
    origin: dict[str, Any],
    resolution: int | None,
    count: int | None,
    subset: dict[str, Any] | None,
) -> dict[str, Any]:
    """The description of a reference: what it is of, and what computed it."""
    return {
        "network": network.describe(),
        "source": origin,
        "resolution": resolution,
        "count": count,
        "subset": subset,
    }
