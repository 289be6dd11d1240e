"""Hash of a network's weights, whatever file or hub they came from."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def state_sha256(module: nn.Module) -> str:
    """Hex SHA-256 over names, types, shapes and bytes of all tensors of the state dict, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
