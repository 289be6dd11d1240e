"""TensorFloat-32 on GPUs."""

from __future__ import annotations

import torch


def use_tf32(allowed: bool, device: torch.device) -> None:
    """Allow a GPU to compute fp32 matrix products and convolutions in TensorFloat-32, or forbid it.

    Nothing changes on a CPU, where the switch has another meaning.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
