"""Sizes of a network of the official code, as the tensors of its checkpoint tell them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from vrpo.config.resolved import PAPER_SIZES
from vrpo.errors import UserError
from vrpo.models.embeddings import position_embedding

INCOMPLETE = "it is not a whole checkpoint of DiT, SiT, REPA, iREPA or HASTE"
POSITION_TOLERANCE = 1e-2  # averaging a constant in float32 for millions of steps moves it a little
LAST = "final_layer.linear"


class Layout(NamedTuple):
    """A network's sizes, as its tensors tell them."""

    depth: int
    width: int
    patch_size: int
    channels: int
    out_channels: int
    num_classes: int
    grid: int


def with_todays_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an early file of REPA, whose blocks after the aligned one have other names."""
    first, old = _depth(state), re.compile(r"^decoder_blocks\.(\d+)(?=\.)")
    return {
        old.sub(lambda found: f"blocks.{first + int(found[1])}", name): tensor
        for name, tensor in state.items()
    }


def read_layout(state: Mapping[str, Tensor], path: Path) -> Layout:
    """The sizes of the network.

    Raises:
        UserError: tensors are missing or not of their shape.
    """
    patches, labels = "x_embedder.proj.weight", "y_embedder.embedding_table.weight"
    needed = {patches: 4, labels: 2, "pos_embed": 3, f"{LAST}.bias": 1}  # and dimensions
    missing = [
        name
        for name, dimensions in needed.items()
        if name not in state or state[name].ndim != dimensions or 0 in state[name].shape
    ]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} missing, or not of its shape; {INCOMPLETE}")
    depth = _depth(state)
    if depth > len(state):
        raise UserError(f"{path}: has a block {depth - 1} and not those before it; {INCOMPLETE}")
    width, channels, patch_size, _ = state[patches].shape
    return Layout(
        depth=depth,
        width=width,
        patch_size=patch_size,
        channels=channels,
        out_channels=len(state[f"{LAST}.bias"]) // patch_size**2,
        num_classes=len(state[labels]) - 1,
        grid=math.isqrt(state["pos_embed"].shape[1]),
    )


def _depth(state: Mapping[str, Tensor]) -> int:
    found = (re.match(r"blocks\.(\d+)\.", name, re.ASCII) for name in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def check_positions(positions: Tensor, layout: Layout, path: Path) -> None:
    """See that the position embedding [1,N,W] is that of fixed sines and cosines.

    Raises:
        UserError: it is not.
    """
    expected = position_embedding(layout.width, layout.grid)
    if positions.shape != expected.shape:
        raise UserError(
            f"{path}: pos_embed is {list(positions.shape)}, not {list(expected.shape)}; "
            "only square grids of tokens are supported"
        )
    off = float((positions - expected).abs().max())
    if off > POSITION_TOLERANCE:
        raise UserError(
            f"{path}: pos_embed differs from the fixed sines and cosines by up to {off:.3g}; "
            "networks with learned positions are not supported"
        )


def size_of(layout: Layout, heads: int | None, path: Path) -> tuple[str, int]:
    """Name and attention heads of the network.

    Raises:
        UserError: it has none of the papers' sizes, and `heads` is None.
    """
    named = {(size.depth, size.width): (name, size.heads) for name, size in PAPER_SIZES.items()}
    known = named.get((layout.depth, layout.width))
    if known is None and heads is None:
        raise UserError(
            f"{path}: {layout.depth} blocks of width {layout.width} are none of the papers' sizes, "
            "and tensors do not tell the heads; say `--heads`"
        )
    name, own_heads = known or (f"{layout.depth}x{layout.width}", 0)
    return name, heads or own_heads
