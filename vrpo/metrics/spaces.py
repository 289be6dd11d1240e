"""Scores in further feature spaces: Frechet and kernel distances, CMMD, and FDr over the spaces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vrpo.errors import UserError
from vrpo.metrics.distances import cmmd
from vrpo.metrics.distances.frechet import frechet_distance, frechet_distance_by_product
from vrpo.metrics.distances.kernel_distance import kernel_distance
from vrpo.metrics.features import FeatureSet, extract
from vrpo.metrics.inputs import Images
from vrpo.metrics.networks.loading import extra_networks
from vrpo.metrics.reference import Reference
from vrpo.metrics.statistics import Gaussian

if TYPE_CHECKING:
    from vrpo.config.networks import SpaceOptions
    from vrpo.config.scoring import EvaluationOptions

CHECK_TOLERANCE = 1e-3  # relative; on sound covariances the two traces agree to 1e-7
NOT_DESCRIBED = ("count", "kept")  # of a reference's space: counts of its images
Found = Iterator[tuple[str, float | None, dict[str, Any]]]


def score_spaces(
    images: Images,
    reference: Reference,
    options: EvaluationOptions,
    weights: Mapping[str, Path],
    path: Path,
    protocol: dict[str, Any],
    device: torch.device | str,
) -> dict[str, float | None]:
    """Scores `fd_`, `kd_` and `cmmd_<name>` in each further space.

    Networks and how the scores were taken go into `protocol`, with its `warnings`.

    Raises:
        UserError: the reference at `path` has a space of another network.
    """
    scores: dict[str, float | None] = {}
    for name, network in extra_networks(options, weights, device):
        space = options.extra_networks[name]
        if name not in reference.extra:
            for score in space.scores:
                scores[f"{score}_{name}"] = None
                protocol["warnings"].append(
                    f"{score}_{name}: not given, the reference has no statistics of this network; "
                    "compute it with `vrpo reference`"
                )
            continue
        described = dict(reference.description["extra"][name])
        for key in NOT_DESCRIBED:
            described.pop(key, None)
        if described != network.describe():
            raise UserError(
                f"{path}: its `{name}` is {described}, the samples' would be "
                f"{network.describe()}; compute the reference again"
            )
        keep = None if space.keeps_features else np.empty(0, dtype=np.int64)
        made = extract(network, images, options.batch_size, keep, f"evaluate {name}")
        used = {**described, "dim": made.pool_statistics.dim}
        for score, value, how in _scores_in(name, space, made, reference, protocol["warnings"]):
            scores[f"{score}_{name}"] = value
            if how:
                used[score] = how
        protocol.setdefault("extra_networks", {})[name] = used
    return scores


def mean_ratio(
    scores: Mapping[str, float | None], options: EvaluationOptions, protocol: dict[str, Any]
) -> dict[str, float | None]:
    """`fdr`, the mean over the spaces with a `validation_fd` of FD over it; empty without any.

    arXiv:2604.28190: each FD of the samples is divided by that of held-out real images against the
    same reference. The ratios go into `protocol`.
    """
    spaces = options.extra_networks.items()
    least = {"fid": options.validation_fid}
    least |= {f"fd_{name}": space.validation_fd for name, space in spaces}
    least = {score: value for score, value in least.items() if value is not None}
    if not least:
        return {}
    missing = [score for score in least if scores[score] is None]
    if missing:
        protocol["warnings"].append(f"fdr: not given, as {', '.join(missing)} is not")
        return {"fdr": None}
    ratios = {score: scores[score] / value for score, value in least.items()}
    protocol["fdr"] = {"validation_fd": least, "ratios": ratios}
    return {"fdr": fmean(ratios.values())}


def frechet_score(name: str, fitted: Gaussian, reference: Gaussian, warnings: list[str]) -> float:
    """Frechet distance, with warnings where its covariances are of deficient rank or unsound."""
    for what, gaussian in (("samples", fitted), ("reference images", reference)):
        if gaussian.rank_deficient:
            warnings.append(
                f"{name}: {gaussian.count:,} {what} for {gaussian.dim:,} features, "
                "the covariance is of deficient rank and the score biased high"
            )
    distance = frechet_distance(fitted, reference)
    check = frechet_distance_by_product(fitted, reference)
    if abs(distance - check) > CHECK_TOLERANCE * max(abs(distance), 1e-3):
        warnings.append(
            f"{name}: the two ways of taking the trace differ, {distance:.6g} and {check:.6g}; "
            "the statistics are ill-conditioned"
        )
    return distance


def _scores_in(
    name: str, space: SpaceOptions, made: FeatureSet, reference: Reference, warnings: list[str]
) -> Found:
    """Each score of a space, and how it was taken."""
    real: Tensor | None = reference.extra_features.get(name)
    for score in space.scores:
        if score == "fd":
            fitted = made.pool_statistics.gaussian()
            yield score, frechet_score(f"fd_{name}", fitted, reference.extra[name], warnings), {}
        elif real is None:
            warnings.append(
                f"{score}_{name}: not given, the reference has no features of this network; "
                "compute it with `vrpo reference` and this config"
            )
            yield score, None, {}
        elif score == "kd":
            found = kernel_distance(real, made.pool)
            keys = ("std", "subsets", "subset_size", "seed")
            yield score, found.value, {key: getattr(found, key) for key in keys}
        else:
            sizes = {"sigma": cmmd.SIGMA, "scale": cmmd.SCALE, "reference_images": len(real)}
            yield score, cmmd.cmmd(real, made.pool), sizes
