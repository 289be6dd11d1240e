"""Latents of all images: the moments of the tokenizer's posterior, from which training draws anew at each visit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vrpo.data.arrays import ArrayWriter
from vrpo.data.shards import open_arrays, shard_attributes, shard_rows
from vrpo.models.tokenizer import load_tokenizer
from vrpo.prepare.encoding import encode_images
from vrpo.prepare.pixels import image_batch

if TYPE_CHECKING:
    from vrpo.config.options import TokenizerOptions

log = logging.getLogger(__name__)


@torch.inference_mode()
def encode_latents(options: TokenizerOptions, images: Path | str, weights: Path | str | None, output: Path | str, device: torch.device | str) -> None:
    """Write `mean` and `std` `[N, C, h, w]`, both times the tokenizer's scale, and `labels` int64 `[N]`; a killed run goes on where it was.

    Of the part of the images that `output` names: one of several shards, or all.

    Raises:
        UserError: images or weights are missing, damaged, or do not fit; the disk is too small.
    """
    data = open_arrays(images)
    part = shard_rows(data.shape("images")[0], output, options.batch_size)
    tokenizer = load_tokenizer(options, weights, device)
    latent_shape = tuple(tokenizer.encode(image_batch(data, slice(0, 1), device))[0].shape[1:])
    count = part.stop - part.start
    shapes = {"mean": ((count, *latent_shape), options.storage), "std": ((count, *latent_shape), options.storage), "labels": ((count,), np.int64)}
    attributes = {
        "images": data.attributes["fingerprint"],
        "resolution": data.attributes["resolution"],
        "tokenizer": options.weights,
        "sha256": tokenizer.sha256,
        "scale": tokenizer.scale,
        "batch_size": options.batch_size,
    }

    def encode(pixels: Tensor) -> dict[str, Tensor]:
        mean, std = tokenizer.encode(pixels)
        stored = getattr(torch, options.storage)
        return {"mean": mean.to(stored), "std": std.to(stored)}

    with ArrayWriter(output, shapes, shard_attributes(output, attributes, {})) as writer:
        encode_images(data, part, writer, options.batch_size, encode, device, "latents")
        writer.finish()
    log.info("latents: %d of %s, scale %.5f", count, "x".join(map(str, latent_shape)), tokenizer.scale)
