"""Encoder tokens of all images, cached: int8 or float8 with a scale per token, or float16."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vrpo.data.arrays import ArrayWriter
from vrpo.data.kinds import IMAGES
from vrpo.data.quantisation import STORED_TYPES, decode, encode, scale_name, storage_error
from vrpo.data.shards import open_arrays, shard_attributes, shard_rows
from vrpo.files import write_text
from vrpo.models.encoder import VisualEncoder, load_encoder
from vrpo.models.online import describe_features
from vrpo.prepare.encoding import encode_images
from vrpo.prepare.pixels import image_batch

if TYPE_CHECKING:
    from vrpo.config.networks import EncoderOptions

log = logging.getLogger(__name__)


@torch.inference_mode()
def encode_features(
    options: EncoderOptions,
    name: str,
    images: Path | str,
    weights: Path | str | None,
    output: Path | str,
    device: torch.device | str,
) -> None:
    """Write encoder `name`'s tokens of the part of the images that `output` names.

    A killed run resumes. With `features: online` only a description is written, and tokens are
    computed when they are needed (vrpo/models/online.py). Arrays:

    - `tokens` [N, T, D] as `options.storage` says (vrpo/data/quantisation.py), and their `scale`
      [N, T] float16.
    - `attention` [N, L, 2, heads, T, D / heads] and `attention_scale`: queries and keys of the L
      blocks of `options.attention`, stored as the tokens are.
    - `class_token` [N, D] float16, where `options.class_token`.
    - `error` [N, 2] float32: each image's mean and worst 1 - cos between a token and its stored
      value. The attribute `error` has both over all images.

    Raises:
        UserError: images or weights are missing, damaged, or do not fit; the disk is too small.
    """
    data = open_arrays(images, IMAGES)
    encoder = load_encoder(options, weights, device)
    attributes = _attributes(options, name, data.attributes["fingerprint"], encoder)
    if options.features == "online":
        places = Path(output), Path(images), Path(weights) if weights else None
        plain = options.model_dump(mode="json")
        write_text(output, describe_features(*places, plain, encoder, attributes))
        return
    part = shard_rows(data.shape("images")[0], output, options.batch_size)
    example = image_batch(data, slice(0, 1), device)
    tokens, class_token = _tokens(encoder, example, options.class_token)
    arrays = {"tokens": tokens}
    if options.attention:
        arrays["attention"] = encoder.attention(example)
    count, kind = part.stop - part.start, STORED_TYPES[options.storage]
    shapes = {key: ((count, *values.shape[1:]), kind) for key, values in arrays.items()}
    if options.storage != "float16":
        shapes |= {scale_name(key): (shape[:-1], np.float16) for key, (shape, _) in shapes.items()}
    if class_token is not None:
        shapes["class_token"] = ((count, *class_token.shape[1:]), np.float16)
    shapes["error"] = ((count, 2), np.float32)

    def stored_of(pixels: Tensor) -> dict[str, Tensor]:
        tokens, class_token = _tokens(encoder, pixels, options.class_token)
        values, scale = encode(tokens, options.storage)
        error = storage_error(tokens, decode(values, scale, options.storage))
        stored = {"tokens": values, "scale": scale, "error": error}
        if options.attention:
            both = encode(encoder.attention(pixels), options.storage)
            stored["attention"], stored["attention_scale"] = both
        if class_token is not None:
            stored["class_token"] = class_token.half()
        return {key: values for key, values in stored.items() if values is not None}

    with ArrayWriter(output, shapes, shard_attributes(output, attributes, {})) as writer:
        encode_images(data, part, writer, options.batch_size, stored_of, device, name)
        errors = writer.read("error")
        mean, worst = float(errors[:, 0].mean(dtype=np.float64)), float(errors[:, 1].max())
        measured = {"error": {"mean": mean, "worst": worst}}
        writer.finish(shard_attributes(output, attributes, measured))
    size = "x".join(map(str, arrays["tokens"].shape[1:]))
    stored = f"{count} x {size} tokens as {options.storage}"
    log.info("%s: %s, 1 - cos: mean %.1e, worst %.1e", name, stored, mean, worst)


def _tokens(
    encoder: VisualEncoder, images: Tensor, class_token: bool
) -> tuple[Tensor, Tensor | None]:
    return encoder.with_class_token(images) if class_token else (encoder.tokens(images), None)


def _attributes(
    options: EncoderOptions, name: str, fingerprint: str, encoder: VisualEncoder
) -> dict[str, object]:
    return {
        "images": fingerprint,
        "encoder": name,
        "architecture": options.architecture,
        "weights": options.weights,
        "sha256": encoder.sha256,
        "image_size": options.image_size,
        "mean": encoder.input.mean,
        "std": encoder.input.std,
        "storage": options.storage if options.features == "cached" else "online",
        "batch_size": options.batch_size,
        **({"attention": options.attention} if options.attention else {}),
        **({"class_token": True} if options.class_token else {}),
    }
