"""Latents of all images: the moments of the tokenizer's posterior, from which training draws anew at each visit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.models.tokenizer import load_tokenizer
from vrpo.prepare.pixels import image_batch

if TYPE_CHECKING:
    from vrpo.config.options import TokenizerOptions

log = logging.getLogger(__name__)


@torch.inference_mode()
def encode_latents(options: TokenizerOptions, images: Path | str, weights: Path | str | None, output: Path | str, device: torch.device | str) -> None:
    """Write `mean` and `std` `[N, C, h, w]`, both times the tokenizer's scale, and `labels` int64 `[N]`; a killed run goes on where it was.

    Raises:
        UserError: images or weights are missing, damaged, or do not fit; the disk is too small.
    """
    data = Arrays(images)
    tokenizer = load_tokenizer(options, weights, device)
    count = data.shape("images")[0]
    latent_shape = tuple(tokenizer.encode(image_batch(data, slice(0, 1), device))[0].shape[1:])
    shapes = {"mean": ((count, *latent_shape), options.storage), "std": ((count, *latent_shape), options.storage), "labels": ((count,), np.int64)}
    attributes = {
        "images": data.attributes["fingerprint"],
        "resolution": data.attributes["resolution"],
        "tokenizer": options.weights,
        "sha256": tokenizer.sha256,
        "scale": tokenizer.scale,
        "batch_size": options.batch_size,
    }
    with ArrayWriter(output, shapes, attributes) as writer, tqdm(total=count, initial=writer.done, desc="latents", unit="image", mininterval=1.0) as progress:
        for rows in writer.batches(options.batch_size):
            mean, std = tokenizer.encode(image_batch(data, rows, device))
            writer.write(rows.start, {"mean": mean.cpu().numpy(), "std": std.cpu().numpy(), "labels": data["labels"][rows]})
            progress.update(len(mean))
        writer.finish()
    log.info("latents: %d of %s, scale %.5f", count, "x".join(map(str, latent_shape)), tokenizer.scale)
