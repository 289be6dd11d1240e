"""FLOPs of the networks, counted from their sizes; a multiply-add is two.

Biases, norms and activations are left out: they are bound by memory and belong to the utilisation.
A backward pass takes twice its forward pass, or as much where only the input has a gradient.
Counts are per image.
"""

from __future__ import annotations


def vit_flops(tokens: int, width: int, depth: int) -> float:
    """One forward pass of a ViT's blocks: 24 N D^2 for their matrices, 4 N^2 D for attention."""
    return depth * (24 * tokens * width**2 + 4 * tokens**2 * width)


def transformer_flops(
    *,
    depth: int,
    width: int,
    patch_size: int,
    side: int,
    channels: int,
    out_channels: int,
    class_token: int = 0,
) -> float:
    """One forward pass of a SiT or DiT on a latent [channels, side, side].

    That is a ViT's, 12 D^2 a block for adaLN, and both ends. `class_token` are the channels of one
    that is denoised too, 0 where none is.
    """
    tokens, patch = (side // patch_size) ** 2, patch_size**2
    patches = 2 * tokens * width * patch * (channels + out_channels) + 4 * width * class_token
    ends = patches + 2 * width * (256 + width) + 4 * width**2
    return vit_flops(tokens + (class_token > 0), width, depth) + depth * 12 * width**2 + ends


def projector_flops(*, tokens: int, width_in: int, width_hidden: int, width_out: int) -> float:
    """One forward pass of `Projector`."""
    return 2 * tokens * (width_in * width_hidden + width_hidden**2 + width_hidden * width_out)


def critic_flops(
    *, latent_shape: tuple[int, int, int], tokens: tuple[int, int], width: int, depth: int
) -> float:
    """One forward pass of `LatentCritic`, whose latent's side is a multiple of its grid's."""
    channels, side, _ = latent_shape
    count, out = tokens
    stem = 2 * side**2 * 9 * channels * width
    down = 2 * side**2 * width**2 if side**2 > count else 0  # each weight meets each pixel once
    return stem + down + 2 * count * (depth * 2 * 9 * width**2 + width * out)
