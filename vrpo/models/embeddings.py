"""Embeddings of patches, time, label and position, as in DiT (arXiv:2212.09748)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FREQUENCIES = 128  # sines, and as many cosines, of the time embedding
MAX_PERIOD = 10_000  # longest period of time and position embeddings, over 2 pi


class PatchEmbedding(nn.Module):
    """Patches, projected linearly; the weight has a convolution's shape, as in the official DiT."""

    def __init__(self, patch_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] to tokens [B,N,width], row by row."""
        B, C, H, W = x.shape
        p = self.patch_size
        x = x.reshape(B, C, H // p, p, W // p, p)
        patches = x.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * p * p)  # (B, N, C p p)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class TimeEmbedding(nn.Module):
    """Cosines and sines of the time at geometrically spaced frequencies, and a two-layer MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = nn.Linear(2 * FREQUENCIES, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)
        exponents = torch.arange(FREQUENCIES, dtype=torch.float32) / FREQUENCIES
        frequencies = torch.exp(-math.log(MAX_PERIOD) * exponents)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """[B] to [B,width]."""
        angles = t[:, None].float() * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class LabelEmbedding(nn.Module):
    """A vector per class, and one more for the null class."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        """[B] int64 to [B,width]."""
        return self.embedding_table(labels)


def position_embedding(width: int, grid: int) -> Tensor:
    """Fixed sines and cosines [1, grid * grid, width] float32.

    The first half of the channels encodes the column, the second half the row.
    """
    frequencies = MAX_PERIOD ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies  # (grid, width / 4)
    axis = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (grid, width / 2)
    columns, rows = axis[None, :].expand(grid, -1, -1), axis[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], dim=-1).reshape(1, grid * grid, width).float()
