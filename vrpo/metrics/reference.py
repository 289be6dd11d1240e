"""What samples are compared with: Gaussians of the training images' features, and features of some images for precision, recall and KID.

Made from the training images, or read from ADM's reference .npz (`mu`, `sigma`, `mu_s`, `sigma_s` of the whole data set, and 10,000 images
`arr_0`, which serve for precision and recall only: FID from those would be another number).
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

from vrpo.data.shards import open_arrays
from vrpo.errors import UserError
from vrpo.metrics.export import write_npz
from vrpo.metrics.extra import feature_spaces, space_statistics
from vrpo.metrics.features import Extractor, extract
from vrpo.metrics.inception import load_extractor
from vrpo.metrics.inputs import open_images
from vrpo.metrics.npz import NpzFile
from vrpo.metrics.statistics import Gaussian
from vrpo.seeds import numpy_generator

if TYPE_CHECKING:
    from vrpo.config.scoring import EvaluationOptions

ADM_STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
SUBSET_SEED = 0
ASYMMETRY = 1e-4  # of a covariance, beside its largest entry; float16 and other rounding stay below


@dataclass(frozen=True)
class Reference:
    """A reference: Gaussians of pooled and spatial features, pooled features [R, D] of the images for precision and recall, and where they come from."""

    pool: Gaussian
    spatial: Gaussian | None
    features: Tensor
    description: dict[str, Any]  # network, source, resolution, count, subset, extra
    extra: Mapping[str, Gaussian] = field(default_factory=dict)  # in further feature spaces, by name


def compute_reference(
    options: EvaluationOptions, images: Path, weights: Path | None, output: Path, device: torch.device | str, extra_weights: Mapping[str, Path] | None = None
) -> None:
    """Write the reference .npz: `mu` [D], `sigma` [D, D], `mu_s` [S], `sigma_s` [S, S], `pool` [R, D], and a JSON description under `vrpo`.

    From the training `images` (images.h5), or, where `options.reference` names one, from ADM's .npz; `extra_weights`: as in `feature_spaces`.

    Raises:
        UserError: weights, images or ADM's file are missing or unfit, or of different resolutions.
    """
    extractor = load_extractor(options, weights, device)
    if options.reference:
        reference = reference_from_adm(Path(options.reference), extractor, options)
        _, side, *_ = open_arrays(images).shape("images")
        require_resolution(reference.description["resolution"], side, f"{images} (the training images)", options.reference)
    else:
        reference = reference_from_images(images, extractor, options)
    save_reference(with_extra(reference, images, options, extra_weights or {}, device), output)


def with_extra(reference: Reference, images: Path, options: EvaluationOptions, weights: Mapping[str, Path], device: torch.device | str) -> Reference:
    """`reference` with the statistics of `images` in the feature spaces of `options.extra_networks`; `weights` as in `feature_spaces`."""
    source, gaussians, described = open_images(images), {}, {}
    for name, space in feature_spaces(options, weights, device):
        gaussians[name] = space_statistics(space, source, options.batch_size, f"reference {name}").gaussian()
        described[name] = {"count": source.count, **space.describe()}
    return replace(reference, description={**reference.description, "extra": described}, extra=gaussians) if gaussians else reference


def reference_from_images(images: Path, extractor: Extractor, options: EvaluationOptions) -> Reference:
    """Statistics of all images at `images`, and features of `options.reference_images` of them, drawn with seed 0."""
    source = open_images(images)
    subset = subset_indices(source.count, options.reference_images)
    features = extract(extractor, source, options.batch_size, keep=subset, title="reference")
    spatial = features.spatial_statistics.gaussian() if features.spatial_statistics else None
    origin = {"kind": "images", "fingerprint": source.attributes.get("fingerprint") or source.digest()}
    return Reference(
        features.pool_statistics.gaussian(), spatial, features.pool, _description(extractor, origin, source.resolution, source.count, len(subset), source.count)
    )


def reference_from_adm(path: Path, extractor: Extractor, options: EvaluationOptions) -> Reference:
    """ADM's statistics from its .npz, and features of its images `arr_0` through `extractor`.

    Raises:
        UserError: arrays are missing, or the statistics are not of this network's features.
    """
    file = NpzFile(path)
    missing = [name for name in ADM_STATISTICS if name not in file]
    if missing:
        raise UserError(f"{path}: a reference needs the arrays {', '.join(ADM_STATISTICS)} and arr_0; missing: {', '.join(missing)}; fetch ADM's VIRTUAL_*.npz")
    images = open_images(path)
    pool, spatial = _dims(extractor)
    fitted = {"pool": _gaussian(file, "mu", "sigma", pool), "spatial": _gaussian(file, "mu_s", "sigma_s", spatial)}
    subset = subset_indices(images.count, options.reference_images)
    features = extract(extractor, images, options.batch_size, keep=subset, title="reference")
    origin = {"kind": "adm", "sha256": images.digest()}
    return Reference(fitted["pool"], fitted["spatial"], features.pool, _description(extractor, origin, images.resolution, None, len(subset), images.count))


def save_reference(reference: Reference, output: Path) -> None:
    """Write `reference` as .npz; equal content gives equal bytes."""
    arrays = {
        "mu": reference.pool.mu.numpy(),
        "sigma": reference.pool.sigma.numpy(),
        "pool": reference.features.numpy(),
        "vrpo": np.array(json.dumps(reference.description, sort_keys=True)),
    }
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mu.numpy(), "sigma_s": reference.spatial.sigma.numpy()}
    for name, gaussian in reference.extra.items():
        arrays |= {f"mu_{name}": gaussian.mu.numpy(), f"sigma_{name}": gaussian.sigma.numpy()}
    write_npz(output, arrays)


def load_reference(path: Path, extractor: Extractor, options: EvaluationOptions) -> Reference:
    """The reference at `path`, one of `save_reference` or ADM's; or that of the real images there (.h5 or a folder of PNGs), computed now.

    Raises:
        UserError: arrays are missing, or it was computed with another network.
    """
    if path.suffix != ".npz":
        return reference_from_images(path, extractor, options)
    file = NpzFile(path)
    if "vrpo" not in file:
        return reference_from_adm(path, extractor, options)
    missing = [name for name in ("mu", "sigma", "pool") if name not in file]
    if missing:
        raise UserError(f"{path}: lacks the arrays {', '.join(missing)}; compute the reference again")
    description = _read_description(file)
    if description["network"] != extractor.describe():
        raise UserError(
            f"{path}: was computed with {_named(description['network'])}, the samples would be with {_named(extractor.describe())}; "
            "compute it again (`python -m vrpo reference`) or give those weights"
        )
    count = description["count"]
    pool, spatial = _dims(extractor)
    extra = {
        name: _gaussian(file, f"mu_{name}", f"sigma_{name}", None, described["count"])
        for name, described in description.get("extra", {}).items()
        if name in options.extra_networks
    }
    return Reference(
        _gaussian(file, "mu", "sigma", pool, count),
        _gaussian(file, "mu_s", "sigma_s", spatial, count) if "mu_s" in file else None,
        _features(file, pool),
        description,
        extra,
    )


def require_resolution(side: int, resolution: int, what: str, where: Path | str) -> None:
    """Raise `UserError` unless the reference at `where`, of images of `side`, has the `resolution` of `what`."""
    if side != resolution:
        raise UserError(f"{where}: its images are {side} x {side}, those of {what} {resolution} x {resolution}; give the reference of that resolution")


def subset_indices(count: int, wanted: int) -> np.ndarray:
    """Ascending indices of `wanted` of `count` images (all, if there are fewer), always the same ones."""
    if wanted >= count:
        return np.arange(count)
    return np.sort(numpy_generator("reference-images", SUBSET_SEED).permutation(count)[:wanted])


def _description(extractor: Extractor, origin: dict[str, Any], resolution: int, count: int | None, subset: int, available: int) -> dict[str, Any]:
    drawn = {"images": subset, "of": available, "seed": SUBSET_SEED if subset < available else None}
    return {"network": extractor.describe(), "source": origin, "resolution": resolution, "count": count, "subset": drawn}


def _named(network: dict[str, Any]) -> str:
    return f"{network.get('network') or network.get('architecture')} of SHA-256 {network.get('sha256')}"


def _dims(extractor: Extractor) -> tuple[int, int]:
    """Numbers of pooled and of spatial features (0: it has none), known before any image of the reference is seen."""
    features = extractor.features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    return features.pool.shape[1], 0 if features.spatial is None else features.spatial.shape[1]


def _read_description(file: NpzFile) -> dict[str, Any]:
    try:
        description = json.loads(str(file.array("vrpo")))
        counts = [description["count"], *(described["count"] for described in description.get("extra", {}).values())]
        sound = {"source", "resolution", "subset"} <= description.keys() and isinstance(description["network"], dict)
        if not sound or not all(count is None or isinstance(count, int) for count in counts):
            raise ValueError("entries are missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file.path}: its description `vrpo` is damaged ({error}); compute the reference again") from error
    return description


def _gaussian(file: NpzFile, mu: str, sigma: str, dim: int | None, count: int | None = None) -> Gaussian:
    """The arrays `mu` [D] and `sigma` [D, D] of a file, which anybody may have written, with D = `dim` (None: whatever it is).

    Raises:
        UserError: they are not there, no real numbers, of other shapes, not finite, or `sigma` is no covariance.
    """
    headers = {name: file.header(name) for name in (mu, sigma)}
    for name, header in headers.items():
        if header.dtype.kind not in "fiu":
            raise UserError(f"{file.path}: `{name}` is {header.dtype}, statistics are real numbers; compute the file again")
    shapes = [headers[name].shape for name in (mu, sigma)]
    if len(shapes[0]) != 1 or shapes[1] != shapes[0] * 2 or not shapes[0][0]:
        raise UserError(f"{file.path}: `{mu}` and `{sigma}` have shapes {list(shapes[0])} and {list(shapes[1])}, not [D] and [D, D]; compute the file again")
    if dim is not None and shapes[0] != (dim,):
        raise UserError(
            f"{file.path}: `{mu}` and `{sigma}` have shapes {list(shapes[0])} and {list(shapes[1])}, this network has {dim} such features; "
            "ADM's references go with `evaluation.network: inception`"
        )
    arrays = [np.asarray(file.array(name), dtype=np.float64) for name in (mu, sigma)]
    for name, array in zip((mu, sigma), arrays, strict=True):
        if not np.isfinite(array).all():
            raise UserError(f"{file.path}: `{name}` holds NaN or infinite numbers; compute the file again")
    if np.abs(arrays[1] - arrays[1].T).max() > ASYMMETRY * np.abs(arrays[1]).max():
        raise UserError(f"{file.path}: `{sigma}` is not symmetric, so it is no covariance; compute the file again")
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
        raise UserError(f"{file.path}: `pool` is {header.dtype} {list(header.shape)}, not float32 [R, {dim}]; compute the reference again")
    rows = torch.from_numpy(np.asarray(file.array("pool"), dtype=np.float32))
    if not torch.isfinite(rows).all():
        raise UserError(f"{file.path}: `pool` holds NaN or infinite numbers; compute the reference again")
    return rows
