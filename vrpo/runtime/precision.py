"""TensorFloat-32 on GPUs."""

from __future__ import annotations

import torch


def use_tf32(allowed: bool, device: torch.device) -> None:
    """Whether a GPU may compute fp32 matrix products and convolutions in TensorFloat-32; nothing on a CPU, where the switch would mean something else."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
