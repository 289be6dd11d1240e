"""References that are read: statistics of a .npz, or the real images at a path.

A .npz is one of `save_reference`; ADM's (`mu`, `sigma`, `mu_s`, `sigma_s` of the whole data set,
and 10,000 images `arr_0`, which would give another FID and serve for precision, recall and KID
only); or a part of that, such as `mu` and `sigma` alone. Scores that need missing arrays are not
given.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.metrics.features import extract
from vrpo.metrics.inputs import ARRAY, ArrayImages, Images, open_real_images
from vrpo.metrics.networks.protocol import FeatureNetwork
from vrpo.metrics.npz import NpzFile
from vrpo.metrics.read_statistics import read_description, read_features, read_gaussian
from vrpo.metrics.reference import (
    POOL,
    SPATIAL,
    Reference,
    describe,
    describe_subset,
    reference_from_images,
    require_enough,
    require_resolution,
    subset_indices,
)

if TYPE_CHECKING:
    from vrpo.config.scoring import EvaluationOptions


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
        return Reference(pool, spatial, None, describe(network, origin, None, None, None))
    subset = subset_indices(images.count, options.reference_images)
    require_enough(len(subset), options, images.path)
    features = extract(network, images, options.batch_size, keep=subset, title="reference")
    drawn = describe_subset(subset, images)
    description = describe(network, origin, images.resolution, None, drawn)
    return Reference(pool, spatial, features.pool, description)


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


def _named(network: dict[str, Any]) -> str:
    name = network.get("network") or network.get("architecture")
    return f"{name} of SHA-256 {network.get('sha256')}"


def _dims(network: FeatureNetwork) -> tuple[int, int]:
    """Numbers of pooled and of spatial features (0: none), from one blank image."""
    features = network.features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    return features.pool.shape[1], 0 if features.spatial is None else features.spatial.shape[1]
