"""Reference of the scores: Gaussians of real images' features, and features of some of them.

The latter serve for precision, recall and KID. A reference is computed from real images, or read
from a .npz of statistics: one of `save_reference`; ADM's (`mu`, `sigma`, `mu_s`, `sigma_s` of the
whole data set, and 10,000 images `arr_0`, which would give another FID and serve for precision,
recall and KID only); or a part of that, such as `mu` and `sigma` alone. Scores that need missing
arrays are not given.
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
from vrpo.files import sha256
from vrpo.metrics.export import write_npz
from vrpo.metrics.features import extract
from vrpo.metrics.inputs import ARRAY, ArrayImages, Images, open_real_images
from vrpo.metrics.networks.loading import extra_networks, load_network
from vrpo.metrics.networks.protocol import FeatureNetwork
from vrpo.metrics.npz import NpzFile
from vrpo.metrics.read_statistics import read_description, read_features, read_gaussian
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


def compute_reference(
    options: EvaluationOptions,
    images: Path,
    weights: Path | None,
    output: Path,
    device: torch.device | str,
    extra_weights: Mapping[str, Path] | None = None,
    resolution: int | None = None,
) -> None:
    """Write the reference .npz.

    It holds `mu` [D], `sigma` [D, D], `mu_s` [S], `sigma_s` [S, S], `pool` [R, D], and a JSON
    description under `vrpo`.

    Args:
        options: network, and number of images in `pool`; a named `reference` replaces the
            statistics of the images.
        images: folder of the images stage, or any real images.
        weights: of the evaluation network.
        output: .npz.
        device: where the network runs.
        extra_weights: as in `extra_networks`; further feature spaces are always those of `images`.
        resolution: of a folder's images, cropped and resized to it; None: the one they have.

    Raises:
        UserError: weights, images or the reference are missing, unfit or of other resolutions.
    """
    source = open_real_images(images, resolution)
    if resolution is not None:
        require_resolution(source.resolution, resolution, "--resolution", images)
    network = load_network(options, weights, device)
    if options.reference:
        reference = load_reference(Path(options.reference), network, options, source)
    else:
        reference = reference_from_images(source, network, options)
    save_reference(with_extra(reference, source, options, extra_weights or {}, device), output)


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


def load_reference(
    path: Path | np.ndarray,
    network: FeatureNetwork,
    options: EvaluationOptions,
    beside: Images | None = None,
) -> Reference:
    """The reference at `path`: statistics of a .npz, or those of the real images there.

    Args:
        path: .npz of `save_reference`, with ADM's arrays or some of them, or with `arr_0` alone;
            .h5; a folder of images; or an array of them, uint8 [N, H, H, 3].
        network: the evaluation network.
        options: of the evaluation.
        beside: images to compare it with, of the same resolution; images of a folder are cropped
            and resized to it.

    Raises:
        UserError: arrays are missing, damaged or of another network, or images are unreadable or
            of another resolution.
    """
    if isinstance(path, np.ndarray):
        images: Images = ArrayImages(path, "reference")
    else:
        file = NpzFile(path) if path.suffix == ".npz" else None
        if file and {"vrpo", *POOL, *SPATIAL} & {*file.names}:
            read = _stored if "vrpo" in file else reference_from_statistics
            return read(file, network, options, beside)
        images = open_real_images(path, beside.resolution if beside else None)
    _require_beside(images.resolution, beside, images.path)
    return reference_from_images(images, network, options)


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
    drawn = _drawn(subset, images)
    description = _description(network, origin, images.resolution, images.count, drawn)
    return Reference(pool, spatial, features.pool, description, images=images)


def reference_from_statistics(
    file: NpzFile, network: FeatureNetwork, options: EvaluationOptions, beside: Images | None = None
) -> Reference:
    """ADM's `mu` and `sigma`; `mu_s`, `sigma_s` and features of the images `arr_0`, if there.

    Raises:
        UserError: one of a pair of arrays is missing, or they are not of this network's features.
    """
    for pair in (POOL, SPATIAL):
        missing = [name for name in pair if name not in file]
        if len(missing) == 1 or (pair == POOL and missing):
            raise UserError(
                f"{file.path}: holds {', '.join(file.names)} and no `{missing[0]}`; "
                "statistics are `mu` and `sigma`, perhaps with `mu_s` and `sigma_s`"
            )
    images = open_real_images(file.path) if ARRAY in file else None
    if images:
        _require_beside(images.resolution, beside, file.path)
    dim, spatial_dim = _dims(network)
    pool = read_gaussian(file, *POOL, dim)
    spatial = read_gaussian(file, *SPATIAL, spatial_dim) if SPATIAL[0] in file else None
    origin = {"kind": "adm" if images and spatial else "statistics", "sha256": sha256(file.path)}
    if images is None:
        return Reference(pool, spatial, None, _description(network, origin, None, None, None))
    subset = subset_indices(images.count, options.reference_images)
    require_enough(len(subset), options, images.path)
    features = extract(network, images, options.batch_size, keep=subset, title="reference")
    drawn = _drawn(subset, images)
    description = _description(network, origin, images.resolution, None, drawn)
    return Reference(pool, spatial, features.pool, description)


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


def _stored(
    file: NpzFile, network: FeatureNetwork, options: EvaluationOptions, beside: Images | None
) -> Reference:
    """A reference of `save_reference`."""
    description = read_description(file)
    if description["network"] != network.describe():
        raise UserError(
            f"{file.path}: was computed with {_named(description['network'])}, "
            f"the samples would be with {_named(network.describe())}; "
            "compute it again (`vrpo reference`) or give those weights"
        )
    _require_beside(description["resolution"], beside, file.path)
    count = description["count"]
    dim, spatial_dim = _dims(network)
    extra = {
        name: read_gaussian(file, f"mu_{name}", f"sigma_{name}", None, described["count"])
        for name, described in description.get("extra", {}).items()
        if name in options.extra_networks
    }
    rows = {
        name: read_features(file, gaussian.dim, f"pool_{name}")
        for name, gaussian in extra.items()
        if f"pool_{name}" in file and options.extra_networks[name].keeps_features
    }
    return Reference(
        read_gaussian(file, *POOL, dim, count),
        read_gaussian(file, *SPATIAL, spatial_dim, count) if SPATIAL[0] in file else None,
        read_features(file, dim) if description["subset"] else None,
        description,
        extra,
        rows,
    )


def _require_beside(side: int | None, beside: Images | None, where: Path) -> None:
    if side is not None and beside is not None:
        require_resolution(side, beside.resolution, str(beside.path), where)


def _drawn(subset: np.ndarray, images: Images) -> dict[str, Any]:
    seed = SUBSET_SEED if len(subset) < images.count else None
    return {"images": len(subset), "of": images.count, "seed": seed}


def _description(
    network: FeatureNetwork,
    origin: dict[str, Any],
    resolution: int | None,
    count: int | None,
    subset: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "network": network.describe(),
        "source": origin,
        "resolution": resolution,
        "count": count,
        "subset": subset,
    }


def _named(network: dict[str, Any]) -> str:
    name = network.get("network") or network.get("architecture")
    return f"{name} of SHA-256 {network.get('sha256')}"


def _dims(network: FeatureNetwork) -> tuple[int, int]:
    """Numbers of pooled and of spatial features (0: none), from one blank image."""
    features = network.features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    return features.pool.shape[1], 0 if features.spatial is None else features.spatial.shape[1]
