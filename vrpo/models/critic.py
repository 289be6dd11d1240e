"""The latent perceptual critic: a small convolutional network from latents to encoder tokens.

VRPO's perceptual reward compares its tokens of the estimated and of the true clean latent, so no
VAE decoder and no encoder run in the training loop. Its gradient with respect to the latent is
used: all layers are smooth.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.models.checkpoints import build_loaded, read_network

MAX_GROUPS = 8


class LatentCritic(nn.Module):
    """Latents to unit-length tokens.

    A strided convolution takes the latent to the token grid; area interpolation does so where the
    latent's side is no multiple of the grid's. Residual blocks of GroupNorm, SiLU and 3x3
    convolution follow, and a linear layer to the tokens' width.

    Args:
        latent_shape: (C, h, w).
        tokens: (T, D); T is a square number.
        width: channels of the convolutions.
        depth: residual blocks.
    """

    def __init__(
        self, latent_shape: tuple[int, int, int], tokens: tuple[int, int], width: int, depth: int
    ) -> None:
        super().__init__()
        channels, height, _ = latent_shape
        self.latent_shape = latent_shape
        self.tokens = tokens
        self.description: dict[str, Any] = {}
        self.grid = math.isqrt(tokens[0])
        if self.grid**2 != tokens[0]:
            raise UserError(
                f"critic: {tokens[0]} tokens are no square grid; "
                "choose an encoder and `image_size` that give one"
            )
        stride = height // self.grid if height % self.grid == 0 else 1
        groups = math.gcd(MAX_GROUPS, width)
        self.stem = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        self.down: nn.Module = nn.Identity()
        if stride > 1:
            strided = nn.Conv2d(width, width, kernel_size=stride, stride=stride)
            self.down = nn.Sequential(nn.SiLU(), strided)
        self.blocks = nn.ModuleList(ResidualBlock(width, groups) for _ in range(depth))
        self.head = nn.Sequential(
            nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, tokens[1], kernel_size=1)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Unit-length tokens `[B, T, D]` of latents `[B, C, h, w]`, in fp32 even under autocast."""
        with torch.autocast(latents.device.type, enabled=False):
            x = self.down(self.stem(latents.float()))  # (B, width, g, g), or (B, width, h, w)
            if x.shape[-1] != self.grid or x.shape[-2] != self.grid:
                x = F.interpolate(x, (self.grid, self.grid), mode="area")
            for block in self.blocks:
                x = block(x)
            tokens = self.head(x).flatten(2).transpose(1, 2)  # (B, T, D)
            return F.normalize(tokens, dim=-1)


class ResidualBlock(nn.Module):
    """`x + conv(silu(norm(conv(silu(norm(x))))))`."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, width, g, g]` to the same shape."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


def load_critic(path: Path | str, device: torch.device | str) -> LatentCritic:
    """The critic that `fit_critic` wrote, frozen and in evaluation mode.

    `latents` and `features` in its `description` are the fingerprints (`Arrays.fingerprint`) of the
    files it was distilled from.

    Raises:
        UserError: the file is missing, damaged, or no critic.
    """
    state, description = read_network(path, "critic")

    def build() -> LatentCritic:
        shapes = tuple(description["latent_shape"]), tuple(description["tokens"])
        return LatentCritic(*shapes, description["width"], description["depth"])

    critic = build_loaded(build, state, path)
    critic.description = description
    return critic.to(device)
