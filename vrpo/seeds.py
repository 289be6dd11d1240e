"""Random numbers as functions of (purpose, seed, step, ...), never of time, order or GPU count."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(*key: str | int) -> int:
    """A 63-bit seed from a key such as `("train-noise", seed, step)`, equal on every machine."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(*key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator on `device`, seeded by `derive_seed(*key)`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(*key))


def numpy_generator(*key: str | int) -> np.random.Generator:
    """A fresh NumPy generator (PCG64), seeded by `derive_seed(*key)`."""
    return np.random.default_rng(derive_seed(*key))
