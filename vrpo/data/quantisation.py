"""Storage of encoder tokens, and its error.

int8 and float8 have a float16 scale per token; float16 needs none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STORED_TYPES = {"int8": "int8", "float8": "uint8", "float16": "float16"}
"""Type in the file of each storage; HDF5 has no float8, so its bits are stored."""

LARGEST = {"int8": 127.0, "float8": 448.0}
"""Largest value: int8 is used symmetrically about zero, float8 is e4m3."""


def scale_name(name: str) -> str:
    """Name of the array of scales of the array `name`."""
    return "scale" if name == "tokens" else f"{name}_scale"


def encode(values: Tensor, storage: str) -> tuple[Tensor, Tensor | None]:
    """Stored values `[..., D]` nearest to float `values`, and their scales `[...]` float16 or None.

    The scale is rounded to float16 before the values are divided by it, so that its own rounding
    hardly adds to the error.

    Args:
        values: tokens, queries or keys.
        storage: `int8`; `float8` (e4m3, as uint8); `float16` (without scales).
    """
    if storage == "float16":
        return values.half(), None
    largest = LARGEST[storage]
    smallest_scale = torch.finfo(torch.float16).tiny
    scale = (values.abs().amax(dim=-1) / largest).clamp_min(smallest_scale).half()  # (...)
    levels = values / scale.float().unsqueeze(-1)
    if storage == "int8":
        return levels.round().clamp(-largest, largest).to(torch.int8), scale
    floats = levels.clamp(-largest, largest).to(torch.float8_e4m3fn)
    return floats.view(torch.uint8), scale


def decode(values: Tensor, scale: Tensor | None, storage: str) -> Tensor:
    """float32 values `[..., D]` of stored `values` and their `scale` `[...]`, on any device."""
    if storage == "float8":
        values = values.view(torch.float8_e4m3fn)
    decoded = values.float()
    return decoded if scale is None else decoded * scale.float().unsqueeze(-1)


def storage_error(values: Tensor, decoded: Tensor) -> Tensor:
    """Mean and worst 1 - cos `[B, 2]` of each image's tokens `[B, T, D]` to the decoded ones."""
    distance = 1 - F.cosine_similarity(values.double(), decoded.double(), dim=-1)  # (B, T)
    return torch.stack([distance.mean(dim=1), distance.amax(dim=1)], dim=1).clamp_min(0).float()
