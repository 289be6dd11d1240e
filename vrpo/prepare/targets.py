"""Targets of guidance by representation: mean tokens of each class, or tokens of one image."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vrpo.config.guidance import TARGETS
from vrpo.data.batches import TrainingData
from vrpo.data.sources.pixels import as_rgb
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.models.checkpoints import save_network
from vrpo.models.encoder import load_encoder
from vrpo.models.online import open_features

if TYPE_CHECKING:
    from vrpo.config.data import DataOptions
    from vrpo.config.networks import EncoderOptions

log = logging.getLogger(__name__)
BATCH = 256  # images read at once


@torch.no_grad()
def class_tokens(
    data: DataOptions,
    name: str,
    latents: Path | str,
    features: Path | str,
    output: Path | str,
    device: torch.device | str,
) -> None:
    """Write the mean tokens [classes,N,D] float32 of each class, place by place, over all images.

    Tokens are averaged as the encoder gives them, in float64, in the order of the images.

    Args:
        data: with the number of classes.
        name: of the encoder.
        latents: which have the labels.
        features: of the encoder, stored or online.
        output: file to write; its description names the encoder and what it was made from.
        device: where online features are computed.

    Raises:
        UserError: a file is missing, damaged or of other images, or a class has no image.
    """
    stored = TrainingData(latents, {name: open_features(features, device)})
    tokens, channels = stored.feature_shapes[name]
    sums = torch.zeros(data.num_classes, tokens, channels, dtype=torch.float64)
    counts = np.bincount(stored.labels, minlength=data.num_classes)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise UserError(
            f"{latents}: class {empty[0]} has no image, so no mean tokens; "
            "leave the class out of the data, or guide by an image"
        )
    for start in range(0, stored.count, BATCH):
        indices = np.arange(start, min(start + BATCH, stored.count))
        batch = stored.gather(indices)
        sums.index_add_(0, batch.labels, batch.tokens[name].cpu().double())
    means = (sums / torch.from_numpy(counts)[:, None, None]).float()
    made_from = stored.features[name]
    description = {
        "kind": TARGETS,
        "encoder": made_from.attributes.get("encoder", name),
        "features": made_from.fingerprint,
        "images": stored.count,
    }
    save_network(output, {"tokens": means}, description)
    log.info("%s: mean tokens of %d classes", name, len(means))


@torch.no_grad()
def image_tokens(
    encoder: EncoderOptions,
    name: str,
    data: DataOptions,
    image: Path | str,
    weights: Path | str | None,
    output: Path | str,
    device: torch.device | str,
) -> None:
    """Write the tokens [1,N,D] float32 of one image.

    Args:
        encoder: gives the tokens.
        name: of the encoder.
        data: with the resolution, which the image has.
        image: file of a square image.
        weights: of the encoder, if it was trained here, else None.
        output: file to write.
        device: where to compute.

    Raises:
        UserError: the image is missing, damaged or of another size; weights are missing or damaged.
    """
    pixels = _pixels(image, data.resolution).to(device)
    tokens = load_encoder(encoder, weights, device).tokens(pixels)
    description = {"kind": TARGETS, "encoder": name, "image": sha256(image)}
    save_network(output, {"tokens": tokens.float()}, description)


def _pixels(path: Path | str, side: int) -> Tensor:
    """An image as uint8 [1,3,side,side]."""
    try:
        with Image.open(path) as opened:
            rgb = np.asarray(as_rgb(opened))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: the target of guidance cannot be read as an image ({error}); "
            "correct `guidance.target`"
        ) from error
    height, width, _ = rgb.shape
    if (height, width) != (side, side):
        raise UserError(
            f"{path}: the target of guidance has {width}x{height} pixels, the experiment's images "
            f"{side}x{side}; crop and resize it to {side}x{side}"
        )
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None]
