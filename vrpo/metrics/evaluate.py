"""Evaluation: samples in, one JSON record out.

One pass gives all scores, with the protocol and provenance that make them comparable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vrpo import __version__
from vrpo.files import sha256, write_text
from vrpo.metrics.confidence import fid_infinity, fid_interval, inception_score_interval
from vrpo.metrics.distances.inception_score import inception_score, permuted
from vrpo.metrics.distances.kernel_distance import kernel_distance
from vrpo.metrics.distances.neighbours import PrecisionRecall, precision_recall
from vrpo.metrics.features import FeatureSet, extract
from vrpo.metrics.inputs import ArrayImages, open_images
from vrpo.metrics.networks.loading import load_network
from vrpo.metrics.read_reference import load_reference
from vrpo.metrics.reference import Reference, require_enough, with_extra
from vrpo.metrics.spaces import frechet_score, mean_ratio, score_spaces

if TYPE_CHECKING:
    from vrpo.config.scoring import EvaluationOptions

PACKAGES = ("torch", "timm", "torch-fidelity", "numpy", "scipy")
PERMUTATION_SEED = 0
SHOWN = {
    "fid": "FID", "sfid": "sFID", "is": "IS",
    "precision": "precision", "recall": "recall", "kid": "KID",
}  # fmt: skip


def evaluate(
    options: EvaluationOptions,
    samples: Path | np.ndarray,
    reference: Path | np.ndarray,
    weights: Path | None,
    output: Path | None,
    device: torch.device | str,
    force_sfid: bool = False,
    extra_weights: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Score `samples` against `reference` and write the record to `output`, if given.

    Args:
        options: network, neighbours, precision of distances, chunk of the Inception score.
        samples: .h5 with `images`, .npz with `arr_0`, a folder of PNGs, or an array, uint8
            [N, H, H, 3].
        reference: .npz of statistics, or real images, as in `load_reference`.
        weights: of the evaluation network.
        output: .json, or None; equal inputs give equal bytes.
        device: where the network runs.
        force_sfid: give sFID even with fewer samples than spatial features.
        extra_weights: of the further feature spaces that were fitted on the images, by name.

    Returns:
        The record: `run`, `seed`, `step`, `sampler`, `scores`, `confidence`, `protocol`,
        `provenance`.

    Raises:
        UserError: an input is missing, of the wrong kind or resolution, or gives NaN features.
    """
    is_array = isinstance(samples, np.ndarray)
    images = ArrayImages(samples, "samples") if is_array else open_images(samples)
    require_enough(images.count, options, images.path)
    network = load_network(options, weights, device)
    compared = load_reference(reference, network, options, images)
    if compared.images is not None:
        compared = with_extra(compared, compared.images, options, extra_weights or {}, device)
    features = extract(network, images, options.batch_size, title="evaluate")
    scores, confidence, protocol = measure(features, compared, options, device, force_sfid)
    real = compared.images
    where = reference if real is None else real.path
    scores |= score_spaces(images, compared, options, extra_weights or {}, where, protocol, device)
    scores |= mean_ratio(scores, options, protocol)
    protocol["warnings"] = [*network.warnings, *protocol["warnings"]]
    attributes = images.attributes
    extra_used = protocol.get("extra_networks", {})
    reference_sha256 = sha256(reference) if real is None else real.digest()
    record = {
        **{key: attributes.get(key) for key in ("run", "seed", "step", "sampler")},
        "scores": scores,
        "confidence": confidence,
        "protocol": {
            **sampling_protocol(attributes),
            **protocol,
            "network": network.describe(),
            "resolution": images.resolution,
        },
        "provenance": {
            "milestone_sha256": attributes.get("milestone_sha256"),
            "network_sha256": network.sha256,
            "extra_networks_sha256": {name: extra["sha256"] for name, extra in extra_used.items()},
            "reference_sha256": reference_sha256,
            "samples_sha256": images.digest(),
            "tokenizer": attributes.get("tokenizer"),
            "versions": versions(),
            "sampling_versions": attributes.get("versions"),
        },
    }
    if output is not None:
        write_text(output, json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n")
    return record


def measure(
    features: FeatureSet,
    reference: Reference,
    options: EvaluationOptions,
    device: torch.device | str,
    force_sfid: bool = False,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """All scores of `features` against `reference`, their confidence, and their protocol."""
    fitted = features.pool_statistics.gaussian()
    score = inception_score(features.logits, options.split_size, PERMUTATION_SEED)
    warnings = list(score.warnings)
    neighbours, kid = PrecisionRecall(None, None), None
    if reference.features is not None:
        neighbours = precision_recall(
            reference.features, features.pool, options.neighbours, options.distances, device
        )
        kid = kernel_distance(reference.features, features.pool)
    scores = {
        "fid": frechet_score("fid", fitted, reference.pool, warnings),
        "sfid": _spatial(features, reference, warnings, force_sfid),
        "is": score.value,
        "precision": neighbours.precision,
        "recall": neighbours.recall,
        "kid": kid and kid.value,
    }
    if reference.features is None:
        warnings.append(
            "precision, recall, kid: not given, "
            "the reference holds statistics and no images (`arr_0`)"
        )
    if resized := reference.description["source"].get("fitted"):
        warnings.append(
            f"reference: {resized['images']:,} of its images are cropped and resized as the "
            f"training images are, {resized['enlarged']:,} of them enlarged"
        )
    ordered = permuted(features.logits, PERMUTATION_SEED)
    confidence = {
        "fid": fid_interval(features.pool, fitted, reference.pool),
        "fid_infinity": fid_infinity(features.pool, reference.pool),
        "is": inception_score_interval(ordered, score.split_size, score.value),
        "kid": kid and {"std_between_subsets": kid.std},
    }
    protocol = _protocol(features, reference, options)
    how = ("splits", "split_size", "used", "permutation_seed", "std")
    protocol["inception_score"] = {key: getattr(score, key) for key in how}
    how = ("subsets", "subset_size", "seed")
    protocol["kid"] = kid and {key: getattr(kid, key) for key in how}
    protocol["warnings"] = warnings
    return scores, confidence, protocol


def _protocol(
    features: FeatureSet, reference: Reference, options: EvaluationOptions
) -> dict[str, Any]:
    """Sizes of both sets, and options of the distances."""
    count, spatial = len(features.pool), features.spatial_statistics
    described = ("source", "count", "subset", "resolution")
    return {
        "images": count,
        "dims": {
            "pool": features.pool_statistics.dim,
            "logits": features.logits.shape[1],
            "spatial": spatial.dim if spatial else None,
        },
        "reference": {key: reference.description[key] for key in described},
        "precision_recall": {
            "neighbours": options.neighbours,
            "distances": options.distances,
            "reference_images": 0 if reference.features is None else len(reference.features),
            "images": count,
        },
    }


def sampling_protocol(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """How the samples were made, null where their file does not say.

    Each of these changes the FID.
    """
    sampler = attributes.get("sampler") or {}
    guidance = sampler.get("guidance") or {}
    tokenizer = attributes.get("tokenizer") or {}
    return {
        "sampler": sampler.get("kind"),
        "steps": sampler.get("steps"),
        "labels": sampler.get("labels"),
        "rounding": sampler.get("rounding"),
        "sampling_seed": sampler.get("seed"),
        "sampling_precision": sampler.get("precision"),
        "guidance": guidance
        if guidance.get("kind")
        else {key: guidance.get(key) for key in ("scale", "interval", "channels")},
        "decoder": tokenizer.get("weights"),
    }


def summary(record: Mapping[str, Any]) -> str:
    """The scores of a record in one line."""
    scores, protocol = record["scores"], record["protocol"]
    shown = dict(SHOWN)
    shown |= {key: _name_in_space(key) for key in scores if key not in SHOWN}
    parts = []
    for key, name in shown.items():
        value = "not given" if scores[key] is None else format(scores[key], ".4g")
        parts.append(f"{name} {value}")
    network = protocol["network"].get("network") or protocol["network"].get("architecture")
    line = f"{', '.join(parts)} ({protocol['images']:,} images, {network})"
    warnings = len(protocol["warnings"])
    return f"{line}; {warnings} warnings in the record" if warnings else line


def _name_in_space(score: str) -> str:
    """`fd_vit` -> FD-vit; `fdr` -> FDr."""
    kind, _, space = score.partition("_")
    return f"{kind.upper()}-{space}" if space else "FDr"


def versions() -> dict[str, str | None]:
    """Versions of the packages that compute scores; null for one that is not installed."""
    found: dict[str, str | None] = {"vrpo": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _spatial(
    features: FeatureSet, reference: Reference, warnings: list[str], force: bool
) -> float | None:
    if features.spatial_statistics is None or reference.spatial is None:
        warnings.append("sfid: not given, the network or the reference has no spatial features")
        return None
    fitted = features.spatial_statistics.gaussian()
    sets = {"samples": fitted, "reference images": reference.spatial}
    short = [what for what, gaussian in sets.items() if gaussian.rank_deficient]
    if short and not force:
        warnings.append(
            f"sfid: not given, no more {' and '.join(short)} than its {fitted.dim:,} features; "
            "take more, or force it"
        )
        return None
    return frechet_score("sfid", fitted, reference.spatial, warnings)
