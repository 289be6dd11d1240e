"""The class token of a pretrained timm vision transformer, for FD-DINOv2 with DINOv2 ViT-L/14.

As in EDM2 (arXiv:2312.02696, appendix; after arXiv:2306.04675): images resized to 224 x 224,
bicubic with antialiasing, ImageNet's normalisation, and the 1,024 features of the class token
after the final norm. DINOv2 was trained at 518. Its own code shrinks the position embedding to
the grid of 224 without antialiasing and with a scale of (16 + 0.1) / 37. This module does the
same, because timm's resampling gives slightly different features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrpo.config.networks import EncoderOptions, NetworkOptions
from vrpo.errors import UserError
from vrpo.metrics.exact import full_precision
from vrpo.metrics.networks.protocol import Features
from vrpo.models.encoder import NetworkInput, load_encoder, normalisation

SCALE_OFFSET = 0.1  # DINOv2's `interpolate_offset`


class ClassTokenNetwork:
    """Class tokens of a pretrained timm vision transformer.

    Args:
        name: key in `evaluation.extra_networks`.
        options: `weights: timm` loads by name, anything else is a local .safetensors file;
            `image_size` is the side that images are resized to.
        device: where it runs.

    Raises:
        UserError: the weights are missing or unfit, or the network has no class token or position
            embedding.
    """

    def __init__(self, name: str, options: NetworkOptions, device: torch.device | str) -> None:
        native = _native_size(options)
        encoder_options = EncoderOptions(**{**dict(options), "image_size": native})
        encoder = load_encoder(encoder_options, None, "cpu")
        network = encoder.network
        has_token = getattr(network, "global_pool", None) == "token"
        if not has_token or getattr(network, "pos_embed", None) is None:
            raise UserError(
                f"evaluation.extra_networks.{name}: `{options.architecture}` gives no class token, "
                "or has no position embedding; take a ViT such as DINOv2's"
            )
        if options.image_size != native:
            resize_positions(network, options.image_size)
        self.sha256 = encoder.sha256
        self.warnings: list[str] = []
        self._input = NetworkInput(options.image_size, *normalisation(network))
        self._device = torch.device(device)
        self._network = network.to(self._device).eval().requires_grad_(False)
        self._description = {
            "architecture": options.architecture,
            "arguments": dict(options.arguments),
            "image_size": options.image_size,
        }

    def features(self, images: Tensor) -> Features:
        """Class tokens of uint8 `images` [B, 3, H, W]."""
        with torch.inference_mode(), full_precision():
            tokens = self._network.forward_features(self._input(images.to(self._device)))
            return Features(self._network.forward_head(tokens, pre_logits=True).float().cpu())

    def describe(self) -> dict[str, Any]:
        """Architecture and hash of the network."""
        return {**self._description, "sha256": self.sha256}


def resize_positions(network: nn.Module, image_size: int) -> None:
    """Fit `network` to `image_size`, its position embedding resampled as DINOv2's own code does."""
    prefix = network.pos_embed.shape[1] - network.patch_embed.num_patches
    before = network.pos_embed.detach()
    side, grid = network.patch_embed.grid_size[0], image_size // network.patch_embed.patch_size[0]
    network.set_input_size(img_size=image_size)
    plane = before[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    scale = (grid + SCALE_OFFSET) / side
    plane = F.interpolate(plane, mode="bicubic", antialias=False, scale_factor=(scale, scale))
    positions = torch.cat([before[:, :prefix], plane.permute(0, 2, 3, 1).flatten(1, 2)], 1)
    network.pos_embed = nn.Parameter(positions, requires_grad=False)


def _native_size(options: NetworkOptions) -> int:
    """Image size of the pretrained network, or of `options` where timm has no fixed one."""
    import timm

    try:
        config = timm.models.get_pretrained_cfg(options.architecture, allow_unregistered=False)
    except RuntimeError:  # no such network: `load_encoder` names the nearest
        config = None
    fixed = config is not None and config.fixed_input_size
    return config.input_size[-1] if fixed else options.image_size
