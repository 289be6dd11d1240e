"""Encoder tokens of all images, cached: int8 with a scale per token, or float16."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.models.encoder import load_encoder
from vrpo.prepare.pixels import image_batch

if TYPE_CHECKING:
    from vrpo.config.options import EncoderOptions

log = logging.getLogger(__name__)
LEVELS = 127  # int8, symmetric about zero


@torch.inference_mode()
def encode_features(options: EncoderOptions, name: str, images: Path | str, weights: Path | str | None, output: Path | str, device: torch.device | str) -> None:
    """Write the tokens `[N, T, D]` of encoder `name`; a killed run goes on where it was.

    With `options.attention`, queries and keys `attention` `[N, L, 2, heads, T, D / heads]` of those L blocks, stored as the tokens are (`attention_scale`).
    `tokens` are int8 with `scale` float16 `[N, T]`, or float16. `error` float32 `[N, 2]` is each image's mean and worst 1 - cos between a token
    and what is stored of it; the attribute `error` has both over all images.

    Raises:
        UserError: images or weights are missing, damaged, or do not fit; the disk is too small.
    """
    data = Arrays(images)
    encoder = load_encoder(options, weights, device)
    count = data.shape("images")[0]
    token_shape = tuple(encoder.tokens(image_batch(data, slice(0, 1), device)).shape[1:])
    shapes = {"tokens": ((count, *token_shape), options.storage), "error": ((count, 2), np.float32)}
    if options.attention:
        shapes["attention"] = ((count, *encoder.attention(image_batch(data, slice(0, 1), device)).shape[1:]), options.storage)
    if options.storage == "int8":
        shapes |= {_scale_of(name): (shape[:-1], np.float16) for name, (shape, _) in shapes.items() if name != "error"}
    attributes = {
        "images": data.attributes["fingerprint"],
        "encoder": name,
        "architecture": options.architecture,
        "weights": options.weights,
        "sha256": encoder.sha256,
        "image_size": options.image_size,
        "mean": encoder.input.mean,
        "std": encoder.input.std,
        "storage": options.storage,
        "batch_size": options.batch_size,
        **({"attention": options.attention} if options.attention else {}),
    }
    with ArrayWriter(output, shapes, attributes) as writer, tqdm(total=count, initial=writer.done, desc=name, unit="image", mininterval=1.0) as progress:
        for rows in writer.batches(options.batch_size):
            pixels = image_batch(data, rows, device)
            tokens = encoder.tokens(pixels)
            stored = _stored("tokens", tokens, options.storage)
            error = storage_error(tokens, stored)
            if options.attention:
                stored |= _stored("attention", encoder.attention(pixels), options.storage)
            writer.write(rows.start, {key: values.cpu().numpy() for key, values in {**stored, "error": error}.items()})
            progress.update(len(tokens))
        errors = writer.read("error")
        mean, worst = float(errors[:, 0].mean(dtype=np.float64)), float(errors[:, 1].max())
        writer.finish({"error": {"mean": mean, "worst": worst}})
    log.info("%s: %d x %s tokens as %s, 1 - cos: mean %.1e, worst %.1e", name, count, "x".join(map(str, token_shape)), options.storage, mean, worst)


def _scale_of(name: str) -> str:
    return "scale" if name == "tokens" else f"{name}_scale"


def _stored(name: str, values: Tensor, storage: str) -> dict[str, Tensor]:
    if storage == "float16":
        return {name: values.half()}
    quantised = quantise(values)
    return {name: quantised["tokens"], _scale_of(name): quantised["scale"]}


def quantise(tokens: Tensor) -> dict[str, Tensor]:
    """int8 `tokens` `[B, T, D]` and float16 `scale` `[B, T]` whose product is nearest to `tokens` float32.

    The scale is rounded to float16 before the tokens are divided by it, so that its own rounding hardly adds to the error.
    """
    scale = (tokens.abs().amax(dim=-1) / LEVELS).clamp_min(torch.finfo(torch.float16).tiny).half()  # (B, T)
    levels = (tokens / scale.float().unsqueeze(-1)).round().clamp(-LEVELS, LEVELS)
    return {"tokens": levels.to(torch.int8), "scale": scale}


def storage_error(tokens: Tensor, stored: dict[str, Tensor]) -> Tensor:
    """Mean and worst 1 - cos `[B, 2]` of each image's tokens `[B, T, D]` against what is stored."""
    decoded = stored["tokens"].double()
    if "scale" in stored:
        decoded = decoded * stored["scale"].double().unsqueeze(-1)
    distance = 1 - F.cosine_similarity(tokens.double(), decoded, dim=-1)  # (B, T)
    return torch.stack([distance.mean(dim=1), distance.amax(dim=1)], dim=1).clamp_min(0).float()
