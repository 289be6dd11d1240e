"""Reference of the scores: Gaussians of real images' features, and features of some of them for
precision, recall and KID.

Made from real images, or read from a .npz of statistics: one of `save_reference`, ADM's (`mu`, `sigma`, `mu_s`, `sigma_s` of the whole data
set, and 10,000 images `arr_0`, which serve for precision, recall and KID only: FID from those would be another number), or a part of that, such
as `mu` and `sigma` alone. What a file does not hold, the scores that need it are not given.
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
from vrpo.metrics.features import extract, statistics_of
from vrpo.metrics.inputs import ARRAY, Images, open_real_images
from vrpo.metrics.networks.loading import extra_networks, load_network
from vrpo.metrics.networks.protocol import FeatureNetwork
from vrpo.metrics.npz import NpzFile
from vrpo.metrics.statistics import Gaussian
from vrpo.seeds import numpy_generator

if TYPE_CHECKING:
    from vrpo.config.scoring import EvaluationOptions

POOL, SPATIAL = (
    ("mu", "sigma"),
    ("mu_s", "sigma_s"),
)  # names of statistics in ADM's files and in ours
SUBSET_SEED = 0
ASYMMETRY = (
    1e-4  # of a covariance, beside its largest entry; rounding to single precision stays far below
)


@dataclass(frozen=True)
class Reference:
    """A reference: Gaussians of pooled and spatial features, pooled features [R, D] of the images for precision and recall, and where they come from."""

    pool: Gaussian
    spatial: Gaussian | None
    features: Tensor | None  # None: of statistics alone
    description: dict[str, Any]  # network, source, resolution, count, subset, extra
    extra: Mapping[str, Gaussian] = field(
        default_factory=dict
    )  # in further feature spaces, by name
    images: Images | None = None  # what the Gaussians were computed from; None where they were read


def compute_reference(
    options: EvaluationOptions,
    images: Path,
    weights: Path | None,
    output: Path,
    device: torch.device | str,
    extra_weights: Mapping[str, Path] | None = None,
    resolution: int | None = None,
) -> None:
    """Write the reference .npz: `mu` [D], `sigma` [D, D], `mu_s` [S], `sigma_s` [S, S], `pool` [R, D], and a JSON description under `vrpo`.

    Args:
        options: network, number of reference images; where `reference` names one, it is taken in the place of the images' statistics.
        images: images.h5 or any real images.
        weights: of the evaluation network.
        output: .npz.
        device: where the network runs.
        extra_weights: as in `extra_networks`; further feature spaces are always those of `images`.
        resolution: side that the images of a folder are cropped and resized to; None: that which they have.

    Raises:
        UserError: weights, images or the named reference are missing or unfit, or of different resolutions.
    """
    source = open_real_images(images, resolution)
    if resolution is not None:
        require_resolution(source.resolution, resolution, "--resolution", images)
    network = load_network(options, weights, device)
    named = Path(options.reference) if options.reference else None
    reference = (
        load_reference(named, network, options, source)
        if named
        else reference_from_images(source, network, options)
    )
    save_reference(with_extra(reference, source, options, extra_weights or {}, device), output)


def with_extra(
    reference: Reference,
    images: Images,
    options: EvaluationOptions,
    weights: Mapping[str, Path],
    device: torch.device | str,
) -> Reference:
    """`reference` with the statistics of `images` in the feature spaces of `options.extra_networks`; `weights` as in `extra_networks`."""
    gaussians, described = {}, {}
    for name, network in extra_networks(options, weights, device):
        gaussians[name] = statistics_of(
            network, images, options.batch_size, f"reference {name}"
        ).gaussian()
        described[name] = {"count": images.count, **network.describe()}
    return (
        replace(
            reference, description={**reference.description, "extra": described}, extra=gaussians
        )
        if gaussians
        else reference
    )


def load_reference(
    path: Path, network: FeatureNetwork, options: EvaluationOptions, beside: Images | None = None
) -> Reference:
    """The reference at `path`: a .npz of statistics as it is, or that of the real images there, computed now.

    Args:
        path: .npz of `save_reference`, with ADM's arrays or some of them, or with `arr_0` alone; .h5; or a folder of images.
        network: the network.
        options: of the evaluation.
        beside: what it will be compared with, whose resolution it must have; images of a folder are cropped and resized to that.

    Raises:
        UserError: arrays are missing, damaged or none of this network's, or images are of another resolution or unreadable.
    """
    file = NpzFile(path) if path.suffix == ".npz" else None
    if file and {"vrpo", *POOL, *SPATIAL} & {*file.names}:
        return (_stored if "vrpo" in file else reference_from_statistics)(
            file, network, options, beside
        )
    images = open_real_images(path, beside.resolution if beside else None)
    _require_beside(images.resolution, beside, path)
    return reference_from_images(images, network, options)


def reference_from_images(
    images: Images, network: FeatureNetwork, options: EvaluationOptions
) -> Reference:
    """Statistics of all `images`, and features of `options.reference_images` of them, drawn with seed 0."""
    subset = subset_indices(images.count, options.reference_images)
    require_enough(len(subset), options, images.path)
    features = extract(network, images, options.batch_size, keep=subset, title="reference")
    spatial = features.spatial_statistics.gaussian() if features.spatial_statistics else None
    origin = {
        "kind": "images",
        "fingerprint": images.attributes.get("fingerprint") or images.digest(),
    }
    origin |= {"fitted": images.attributes["fitted"]} if "fitted" in images.attributes else {}
    description = _description(
        network, origin, images.resolution, images.count, _drawn(subset, images)
    )
    return Reference(
        features.pool_statistics.gaussian(), spatial, features.pool, description, images=images
    )


def reference_from_statistics(
    file: NpzFile, network: FeatureNetwork, options: EvaluationOptions, beside: Images | None = None
) -> Reference:
    """ADM's `mu`, `sigma`, perhaps `mu_s`, `sigma_s`, and features of the images `arr_0` through `network`, if there are any.

    Raises:
        UserError: one of a pair of arrays is missing, or they are not of this network's features.
    """
    for pair in (POOL, SPATIAL):
        held = [name for name in pair if name in file]
        if len(held) == 1 or (pair == POOL and not held):
            missing = next(name for name in pair if name not in file)
            raise UserError(
                f"{file.path}: holds {', '.join(file.names)} and no `{missing}`; statistics are `mu` and `sigma`, perhaps with `mu_s` and `sigma_s`"
            )
    images = open_real_images(file.path) if ARRAY in file else None
    if images:
        _require_beside(images.resolution, beside, file.path)
    dim, spatial_dim = _dims(network)
    pool = _gaussian(file, *POOL, dim)
    spatial = _gaussian(file, *SPATIAL, spatial_dim) if SPATIAL[0] in file else None
    origin = {"kind": "adm" if images and spatial else "statistics", "sha256": sha256(file.path)}
    if images is None:
        return Reference(pool, spatial, None, _description(network, origin, None, None, None))
    subset = subset_indices(images.count, options.reference_images)
    require_enough(len(subset), options, images.path)
    features = extract(network, images, options.batch_size, keep=subset, title="reference")
    return Reference(
        pool,
        spatial,
        features.pool,
        _description(network, origin, images.resolution, None, _drawn(subset, images)),
    )


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
    write_npz(output, arrays)


def require_resolution(side: int, resolution: int, what: str, where: Path | str) -> None:
    """Raise `UserError` unless the reference at `where`, of images of `side`, has the `resolution` of `what`."""
    if side != resolution:
        raise UserError(
            f"{where}: its images are {side} x {side}, those of {what} {resolution} x {resolution}; give the reference of that resolution"
        )


def require_enough(count: int, options: EvaluationOptions, where: Path) -> None:
    """Raise `UserError` where `count` images are too few for precision and recall, before any of them goes through a network."""
    if count <= options.neighbours:
        raise UserError(
            f"{where}: {count} images are too few for neighbour {options.neighbours} of precision and recall; take more images or a smaller `neighbours`"
        )


def subset_indices(count: int, wanted: int) -> np.ndarray:
    """Ascending indices of `wanted` of `count` images (all, if there are fewer), always the same ones."""
    if wanted >= count:
        return np.arange(count)
    return np.sort(numpy_generator("reference-images", SUBSET_SEED).permutation(count)[:wanted])


def _stored(
    file: NpzFile, network: FeatureNetwork, options: EvaluationOptions, beside: Images | None
) -> Reference:
    """One of `save_reference`."""
    description = _read_description(file)
    if description["network"] != network.describe():
        raise UserError(
            f"{file.path}: was computed with {_named(description['network'])}, the samples would be with {_named(network.describe())}; "
            "compute it again (`python -m vrpo reference`) or give those weights"
        )
    _require_beside(description["resolution"], beside, file.path)
    count = description["count"]
    dim, spatial_dim = _dims(network)
    extra = {
        name: _gaussian(file, f"mu_{name}", f"sigma_{name}", None, described["count"])
        for name, described in description.get("extra", {}).items()
        if name in options.extra_networks
    }
    return Reference(
        _gaussian(file, *POOL, dim, count),
        _gaussian(file, *SPATIAL, spatial_dim, count) if SPATIAL[0] in file else None,
        _features(file, dim) if description["subset"] else None,
        description,
        extra,
    )


def _require_beside(side: int | None, beside: Images | None, where: Path) -> None:
    if side is not None and beside is not None:
        require_resolution(side, beside.resolution, str(beside.path), where)


def _drawn(subset: np.ndarray, images: Images) -> dict[str, Any]:
    return {
        "images": len(subset),
        "of": images.count,
        "seed": SUBSET_SEED if len(subset) < images.count else None,
    }


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
    return f"{network.get('network') or network.get('architecture')} of SHA-256 {network.get('sha256')}"


def _dims(network: FeatureNetwork) -> tuple[int, int]:
    """Numbers of pooled and of spatial features (0: it has none), known before any image of the reference is seen."""
    features = network.features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    return features.pool.shape[1], 0 if features.spatial is None else features.spatial.shape[1]


def _read_description(file: NpzFile) -> dict[str, Any]:
    try:
        description = json.loads(str(file.array("vrpo")))
        counts = [
            description["count"],
            *(described["count"] for described in description.get("extra", {}).values()),
        ]
        sound = {"source", "resolution", "subset"} <= description.keys() and isinstance(
            description["network"], dict
        )
        if not sound or not all(count is None or isinstance(count, int) for count in counts):
            raise ValueError("entries are missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file.path}: its description `vrpo` is damaged ({error}); compute the reference again"
        ) from error
    return description


def _gaussian(
    file: NpzFile, mu: str, sigma: str, dim: int | None, count: int | None = None
) -> Gaussian:
    """The arrays `mu` [D] and `sigma` [D, D] of a file, which anybody may have written, with D = `dim` (None: whatever it is).

    Raises:
        UserError: they are not there, no real numbers, of other shapes, not finite, or `sigma` is no covariance.
    """
    headers = {name: file.header(name) for name in (mu, sigma)}
    for name, header in headers.items():
        if header.dtype.kind not in "fiu":
            raise UserError(
                f"{file.path}: `{name}` is {header.dtype}, statistics are real numbers; compute the file again"
            )
    shapes = [headers[name].shape for name in (mu, sigma)]
    if len(shapes[0]) != 1 or shapes[1] != shapes[0] * 2 or not shapes[0][0]:
        raise UserError(
            f"{file.path}: `{mu}` and `{sigma}` have shapes {list(shapes[0])} and {list(shapes[1])}, not [D] and [D, D]; compute the file again"
        )
    if dim is not None and shapes[0] != (dim,):
        raise UserError(
            f"{file.path}: `{mu}` and `{sigma}` have shapes {list(shapes[0])} and {list(shapes[1])}, this network has {dim} such features; "
            "ADM's references go with `evaluation.network: inception`"
        )
    arrays = [np.asarray(file.array(name), dtype=np.float64) for name in (mu, sigma)]
    for name, array in zip((mu, sigma), arrays, strict=True):
        if not np.isfinite(array).all():
            raise UserError(
                f"{file.path}: `{name}` holds NaN or infinite numbers; compute the file again"
            )
    if np.abs(arrays[1] - arrays[1].T).max() > ASYMMETRY * np.abs(arrays[1]).max():
        raise UserError(
            f"{file.path}: `{sigma}` is not symmetric, so it is no covariance; compute the file again"
        )
    gaussian = Gaussian(*map(torch.from_numpy, arrays), count)
    try:
        _ = gaussian.factor  # kept for the distance
    except UserError as error:
        raise UserError(f"{file.path}: `{sigma}`: {error}") from error
    return gaussian


def _features(file: NpzFile, dim: int) -> Tensor:
    """The array `pool` [R, D] of a file, float32."""
    header = file.header("pool")
    if header.dtype.kind != "f" or len(header.shape) != 2 or header.shape[1] != dim:
        raise UserError(
            f"{file.path}: `pool` is {header.dtype} {list(header.shape)}, not float32 [R, {dim}]; compute the reference again"
        )
    rows = torch.from_numpy(np.asarray(file.array("pool"), dtype=np.float32))
    if not torch.isfinite(rows).all():
        raise UserError(
            f"{file.path}: `pool` holds NaN or infinite numbers; compute the reference again"
        )
    return rows
