"""The class token of REG's checkpoints: its layers and position, in and out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vrpo.errors import UserError

FIRST = "cls_projectors2.weight"  # a tensor that no other code has


def taken_class_token(state: dict[str, Tensor], path: Path) -> int | None:
    """Channels of the class token that the network of `state` denoises; None: it denoises none.

    Its position, which is zero, is taken out of `pos_embed`.

    Raises:
        UserError: a tensor is not of its shape, or the position is not zero.
    """
    if FIRST not in state:
        return None
    weight, positions = state[FIRST], state.get("pos_embed")
    if weight.ndim != 2 or positions is None or positions.ndim != 3 or 0 in positions.shape:
        raise UserError(
            f"{path}: {FIRST} or pos_embed is missing, or not of its shape; "
            "it is not a whole checkpoint of REG"
        )
    if positions[:, 0].abs().max() > 0:
        raise UserError(
            f"{path}: the class token's position is not zero; only REG's network is supported"
        )
    state["pos_embed"] = positions[:, 1:]
    return weight.shape[1]


def with_position(positions: Tensor) -> Tensor:
    """Positions [1,1+N,W] with that of the class token before those of the patches [1,N,W]."""
    return torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)


def has_class_token(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are those of REG's network."""
    return FIRST in state
