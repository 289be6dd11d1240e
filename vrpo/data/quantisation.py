"""How encoder tokens are stored: int8 or float8 with a float16 scale per token, or float16; and what that costs them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STORED_TYPES = {
    "int8": "int8",
    "float8": "uint8",
    "float16": "float16",
}  # in the file; HDF5 has no float8, its bits are stored
LARGEST = {
    "int8": 127.0,
    "float8": 448.0,
}  # int8 is symmetric about zero; 448 is the largest of e4m3


def scale_name(name: str) -> str:
    """Name of the array of scales that belongs to the array `name`."""
    return "scale" if name == "tokens" else f"{name}_scale"


def encode(values: Tensor, storage: str) -> tuple[Tensor, Tensor | None]:
    """Stored form of `values` `[..., D]` float: values `[..., D]`, and scales `[...]` float16 or None.
    Their product is nearest to `values`.

    The scale is rounded to float16 before the values are divided by it, so that its own rounding hardly adds to the error.

    Args:
        values: tokens, queries or keys.
        storage: `int8`; `float8` (e4m3, as uint8); `float16` (without scales).
    """
    if storage == "float16":
        return values.half(), None
    scale = (
        (values.abs().amax(dim=-1) / LARGEST[storage])
        .clamp_min(torch.finfo(torch.float16).tiny)
        .half()
    )  # (...)
    levels = values / scale.float().unsqueeze(-1)
    if storage == "int8":
        return levels.round().clamp(-LARGEST[storage], LARGEST[storage]).to(torch.int8), scale
    return levels.clamp(-LARGEST[storage], LARGEST[storage]).to(torch.float8_e4m3fn).view(
        torch.uint8
    ), scale


def decode(values: Tensor, scale: Tensor | None, storage: str) -> Tensor:
    """The float32 `[..., D]` that stored `values` and their `scale` `[...]` stand for; on any device."""
    if storage == "float8":
        values = values.view(torch.float8_e4m3fn)
    decoded = values.float()
    return decoded if scale is None else decoded * scale.float().unsqueeze(-1)


def storage_error(values: Tensor, decoded: Tensor) -> Tensor:
    """Mean and worst 1 - cos `[B, 2]` between each image's tokens `[B, T, D]` and what is decoded of them."""
    distance = 1 - F.cosine_similarity(values.double(), decoded.double(), dim=-1)  # (B, T)
    return torch.stack([distance.mean(dim=1), distance.amax(dim=1)], dim=1).clamp_min(0).float()
