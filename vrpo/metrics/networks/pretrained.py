"""Pooled features of a pretrained timm network, for FD-DINOv2, KDD, CMMD and FDr.

As in EDM2 (arXiv:2312.02696, appendix; after arXiv:2306.04675): images resized bicubically with
antialiasing, the network's normalisation, and for DINOv2 ViT-L/14 the 1,024 features of the class
token after the final norm. DINOv2 was trained at 518. Its own code shrinks the position embedding
to the grid of 224 without antialiasing and with a scale of (16 + 0.1) / 37. This module does the
same, because timm's resampling gives slightly different features.

Networks without a class token are pooled as for FDr (arXiv:2604.28190): by their attention pooling
(SigLIP), or by the mean over the positions of their feature map (ConvNeXt).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrpo.config.networks import NetworkOptions, SpaceOptions
from vrpo.errors import UserError
from vrpo.metrics.exact import full_precision
from vrpo.metrics.networks.protocol import Features
from vrpo.models.digest import state_sha256
from vrpo.models.timm_networks import NetworkInput, load_timm, normalisation

SCALE_OFFSET = 0.1  # DINOv2's `interpolate_offset`


class PretrainedNetwork:
    """Pooled features, or embeddings, of a pretrained timm network.

    Args:
        name: key in `evaluation.extra_networks`.
        options: `weights: timm` loads by name, anything else is a local .safetensors file;
            `image_size` is the side that images are resized to.
        device: where it runs.

    Raises:
        UserError: the weights are missing or unfit, or the network cannot be pooled or resized, or
            has no embedding.
    """

    def __init__(self, name: str, options: SpaceOptions, device: torch.device | str) -> None:
        self._embedded = options.features == "embedding"
        self._where = f"evaluation.extra_networks.{name}"
        native = _native_size(options)
        network = load_timm(options.model_copy(update={"image_size": native}), self._embedded)
        if self._embedded and not isinstance(network.get_classifier(), nn.Linear):
            raise UserError(
                f"{self._where}.features: `{options.architecture}` has no projection that makes "
                "embeddings; take a CLIP of timm, such as "
                "`vit_large_patch14_clip_quickgelu_336.openai`, or `features: pooled`"
            )
        if options.image_size != native:
            if getattr(network, "pos_embed", None) is None:
                raise self._unfit(options, "no position embedding that fits other sizes")
            resize_positions(network, options.image_size)
        self._pool = getattr(network, "global_pool", None)
        if self._pool not in ("token", "map") and hasattr(network, "pos_embed"):
            raise self._unfit(options, "no class token and no attention pooling")
        self.sha256 = state_sha256(network)
        self.warnings: list[str] = []
        self._input = NetworkInput(options.image_size, *normalisation(network))
        self._device = torch.device(device)
        self._network = network.to(self._device).eval().requires_grad_(False)
        self._description = {
            "architecture": options.architecture,
            "arguments": dict(options.arguments),
            "image_size": options.image_size,
        }
        if self._embedded:
            self._description["features"] = "embedding"
        self.features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))  # unfit ones fail before work

    def features(self, images: Tensor) -> Features:
        """Features [B, D] of uint8 `images` [B, 3, H, W]; embeddings have length 1."""
        with torch.inference_mode(), full_precision():
            found = self._network.forward_features(self._input(images.to(self._device)))
            if found.ndim == 3:
                found = self._network.forward_head(found, pre_logits=not self._embedded)
            elif found.shape[1] == self._network.num_features and not self._embedded:
                found = found.mean((2, 3))  # (B, D, h, w) of a convolutional network
            else:
                raise UserError(
                    f"{self._where}: its features {list(found.shape)} are no class token and no "
                    "feature map [B, D, h, w]; take a ViT such as DINOv2's, or a ConvNeXt"
                )
            return Features((F.normalize(found, dim=1) if self._embedded else found).float().cpu())

    def describe(self) -> dict[str, Any]:
        """Architecture and hash of the network."""
        return {**self._description, "sha256": self.sha256}

    def _unfit(self, options: SpaceOptions, what: str) -> UserError:
        return UserError(
            f"{self._where}: `{options.architecture}` has {what}; take a ViT such as DINOv2's"
        )


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
    except RuntimeError:  # no such network: `load_timm` names the nearest
        config = None
    fixed = config is not None and config.fixed_input_size
    return config.input_size[-1] if fixed else options.image_size
