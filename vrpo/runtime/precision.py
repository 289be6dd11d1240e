"""TensorFloat-32 and bfloat16 on GPUs."""

from __future__ import annotations

import torch

from vrpo.errors import UserError


def use_tf32(allowed: bool, device: torch.device) -> None:
    """Allow a GPU to compute fp32 matrix products and convolutions in TensorFloat-32, or forbid it.

    Nothing changes on a CPU, where the switch has another meaning.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


def require_precision(precision: str, device: torch.device, option: str) -> None:
    """Check that a GPU computes in `precision`, the value of `option`.

    Raises:
        UserError: it is bf16, which the GPU only emulates.
    """
    if precision != "bf16" or device.type != "cuda":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f"{option}: {torch.cuda.get_device_name(device)} does not compute in bf16; "
            "set it to fp32, or use a GPU that does (Ampere or later)"
        )
