"""What golden values were made from: inputs and weights that are the same everywhere, and small denoisers. See tests/golden/README.md."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "golden"
NUM_CLASSES = 1000  # REPA's samplers hard-code the null class 1000
MODEL = SimpleNamespace(
    name="golden", depth=3, width=48, heads=4, patch_size=2, num_classes=NUM_CLASSES
)
LATENT = (4, 8, 8)
LABELS = torch.tensor([3, 207])


def load(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def draw(seed: int, *shape: int) -> Tensor:
    """Uniform values of mean 0 and variance 1, from raw PCG64 output: the same bits with every version of every library."""
    raw = np.random.PCG64(seed).random_raw(math.prod(shape))
    return (
        torch.from_numpy(((raw >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5) * math.sqrt(12))
        .float()
        .reshape(shape)
    )


class Draws:
    """A sequence of draws of one shape, in the place of torch.randn."""

    def __init__(self, seed: int, *shape: int) -> None:
        self.seed, self.shape, self.count = seed, shape, 0

    def __call__(self, *_: object, **__: object) -> Tensor:
        self.count += 1
        return draw(self.seed * 1000 + self.count, *self.shape)


def fill(module: torch.nn.Module, prefix: str = "") -> torch.nn.Module:
    """Fill every parameter, zero-initialised ones too, with draws seeded by its name, of a size that keeps activations near one."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name != "pos_embed":
                scale = 0.1 if parameter.dim() == 1 else 0.7 / math.sqrt(parameter[0].numel())
                parameter.copy_(
                    scale * draw(zlib.crc32(f"{prefix}{name}".encode()), *parameter.shape)
                )
    return module.eval()


def gaussian_velocity(x: Tensor, t: Tensor, path: str) -> Tensor:
    """The exact velocity for standard normal data, (alpha alpha' + sigma sigma') / (alpha^2 + sigma^2) x; t [B]."""
    t = t[:, None, None, None]
    return (2 * t - 1) / ((1 - t) ** 2 + t**2) * x if path == "linear" else torch.zeros_like(x)


def gaussian_noise(x: Tensor, alpha_bar: Tensor) -> Tensor:
    """The exact expectation of the noise for standard normal data, with zeros for the learned variance; alpha_bar [B]."""
    return torch.cat([(1 - alpha_bar)[:, None, None, None].sqrt() * x, torch.zeros_like(x)], dim=1)
