"""Batches of images for the networks of this package: read, moved, and lightly augmented."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vrpo.data.shards import StoredArrays

MAX_SHIFT = 0.08  # of the image's side
MAX_ROTATION = 12.0  # degrees
MAX_SCALE = 0.12  # larger or smaller, as a part


def image_batch(data: StoredArrays, rows: np.ndarray | slice, device: torch.device | str) -> Tensor:
    """Images `rows` of the stored images as uint8 `[B, 3, H, W]` on `device`."""
    return to_device(torch.from_numpy(data.rows("images", rows)), device)


def read_pinned(data: StoredArrays, rows: slice, device: torch.device | str) -> Tensor:
    """Images `rows` (within the count) as uint8 `[B, H, W, 3]` on the CPU.

    They are in page-locked memory where `device` is a GPU.
    """
    shape, on_gpu = data.shape("images")[1:], torch.device(device).type == "cuda"
    pinned = torch.empty(rows.stop - rows.start, *shape, dtype=torch.uint8, pin_memory=on_gpu)
    data.rows("images", rows, out=pinned.numpy())
    return pinned


def to_device(images: Tensor, device: torch.device | str) -> Tensor:
    """`[B, H, W, 3]` on the CPU to `[B, 3, H, W]` on `device`, without waiting for it."""
    return images.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, turn and scale each of `images` uint8 `[B, 3, H, W]` a little, at random.

    Pixels from outside have the border's colour.
    """
    draws = torch.rand((4, len(images)), generator=generator) * 2 - 1  # in [-1, 1)
    angle = draws[0] * math.radians(MAX_ROTATION)
    zoom = 1 + draws[1] * MAX_SCALE
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift = draws[2:] * (2 * MAX_SHIFT)  # the grid's coordinates run from -1 to 1
    rows = [cosine, -sine, shift[0]], [sine, cosine, shift[1]]
    matrix = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)  # (B, 2, 3)
    grid = F.affine_grid(matrix.to(images.device), list(images.shape), align_corners=False)
    moved = F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return moved.round().to(torch.uint8)
