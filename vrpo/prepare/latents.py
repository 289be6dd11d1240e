"""Latents of all images: moments of the tokenizer's posterior, from which training samples."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vrpo.data.arrays import ArrayWriter
from vrpo.data.kinds import IMAGES
from vrpo.data.shards import open_arrays, shard_attributes, shard_rows
from vrpo.errors import UserError
from vrpo.models.tokenizer import load_tokenizer
from vrpo.prepare.encoding import encode_images
from vrpo.prepare.pixels import image_batch
from vrpo.prepare.ready_latents import ReadyLatents

if TYPE_CHECKING:
    from vrpo.config.networks import TokenizerOptions

log = logging.getLogger(__name__)
NEAR_ONE = (0.5, 2.0)  # standard deviations of latents that need no warning


@torch.inference_mode()
def encode_latents(
    options: TokenizerOptions,
    images: Path | str,
    weights: Path | str | None,
    output: Path | str,
    device: torch.device | str,
) -> None:
    """Write `mean` and `std` `[N, C, h, w]` of the normalised latents, and `labels` int64 `[N]`.

    `output` names the part of the images: one of several shards, or all. A killed run resumes.
    With `options.encoded` the latents are read and not computed.

    Raises:
        UserError: images, weights or latents are missing, damaged, or do not fit; a latent is not
            finite; the disk is too small.
    """
    data = open_arrays(images, IMAGES)
    part = shard_rows(data.shape("images")[0], output, options.batch_size)
    tokenizer = load_tokenizer(options, weights, device)
    latent_shape = tuple(tokenizer.encode(image_batch(data, slice(0, 1), device))[0].shape[1:])
    side, latent_side = data.shape("images")[1], latent_shape[-1]
    decoded = latent_side * tokenizer.downsampling
    if side != decoded:
        raise UserError(
            f"data.resolution: images of {side} pixels have latents of {latent_side}, which decode "
            f"to {decoded} pixels; choose a multiple of {tokenizer.downsampling}"
        )
    count = part.stop - part.start
    shapes = {
        "mean": ((count, *latent_shape), options.storage),
        "std": ((count, *latent_shape), options.storage),
        "labels": ((count,), np.int64),
    }
    attributes = {
        "images": data.attributes["fingerprint"],
        "resolution": data.attributes["resolution"],
        "tokenizer": options.weights,
        "sha256": tokenizer.sha256,
        "scale": tokenizer.scale,
        "batch_size": options.batch_size,
    }
    if options.weights != "trained":  # a trained one has its scale in its file, and no shift
        attributes["shift"] = tokenizer.shift
    ready = ReadyLatents(options.encoded) if options.encoded else None
    if ready:
        ready.check(data, tokenizer, device)
        attributes["encoded"] = ready.sha256
    moments = torch.zeros(2, dtype=torch.float64, device=device)  # sums of latents, and of squares

    def encode(pixels: Tensor) -> dict[str, Tensor]:
        return stored(*tokenizer.encode(pixels))

    def stored(mean: Tensor, std: Tensor) -> dict[str, Tensor]:
        squares = mean.double().square() + std.double().square()
        moments.add_(torch.stack([mean.double().sum(), squares.sum()]))
        kind = getattr(torch, options.storage)
        return {"mean": mean.to(kind), "std": std.to(kind)}

    with ArrayWriter(output, shapes, shard_attributes(output, attributes, {})) as writer:
        encoded = (writer.count - writer.done) * math.prod(latent_shape)
        if ready:
            for rows in writer.batches(options.batch_size):
                place = slice(part.start + rows.start, part.start + rows.stop)
                moment = (each.to(device) for each in ready.rows(place))
                found = stored(*tokenizer.normalised(*moment))
                arrays = {name: values.cpu().numpy() for name, values in found.items()}
                writer.write(rows.start, {**arrays, "labels": ready.labels[place]})
        else:
            encode_images(data, part, writer, options.batch_size, encode, device, "latents")
        writer.finish()
    size = "x".join(map(str, latent_shape))
    log.info("latents: %d of %s, %s", count, size, tokenizer.normalisation)
    if encoded:
        _report_deviation(*(moments / encoded).tolist())


def _report_deviation(mean: float, square: float) -> None:
    """Log the standard deviation of the new latents, as a warning where it is far from 1."""
    deviation = math.sqrt(max(square - mean**2, 0.0))
    if NEAR_ONE[0] <= deviation <= NEAR_ONE[1]:
        log.info("latents: standard deviation %.4f", deviation)
    else:
        log.warning(
            "latents: their standard deviation is %.4f, diffusion wants about 1; unless this is "
            "meant, multiply `tokenizer.scale` (or `scaling_factor` in the VAE's config.json) "
            "by %.5g",
            deviation,
            1 / max(deviation, 1e-12),
        )
