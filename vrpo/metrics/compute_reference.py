"""The stage that computes the reference of an experiment's scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vrpo.metrics.inputs import open_real_images
from vrpo.metrics.networks.loading import load_network
from vrpo.metrics.read_reference import load_reference
from vrpo.metrics.reference import (
    reference_from_images,
    require_resolution,
    save_reference,
    with_extra,
)

if TYPE_CHECKING:
    from vrpo.config.scoring import EvaluationOptions


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
