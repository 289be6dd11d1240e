"""Exact arithmetic of scores: no TF32, no algorithm chosen by timing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Within it, full float32 products and deterministic cuDNN kernels.

    TF32 would move Inception features, hence FID. The settings are restored afterwards.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    exact = {"benchmark": False, "deterministic": True, "allow_tf32": False}
    try:
        with torch.backends.cudnn.flags(enabled=True, **exact):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
