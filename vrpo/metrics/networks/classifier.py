"""A timm classifier fitted on the training images, for data that Inception was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.metrics.exact import full_precision
from vrpo.metrics.networks.protocol import SPATIAL_CHANNELS, Features
from vrpo.models.digest import state_sha256
from vrpo.models.timm_networks import NetworkInput, load_classifier, normalisation

if TYPE_CHECKING:
    from vrpo.config.networks import NetworkOptions


class ClassifierNetwork:
    """Features of the classifier that `fit_classifier` wrote to `weights`.

    pool: input of its last layer; logits: that layer without its bias; spatial: the first 7
    channels of the middle one of its feature maps, as NHWC.

    Raises:
        UserError: weights are missing, damaged or of another architecture, or timm cannot give
            this one's feature maps.
    """

    def __init__(
        self,
        options: NetworkOptions,
        weights: Path | None,
        device: torch.device | str,
        where: str = "evaluation.trained",
    ) -> None:
        """`where`: the config's section that `options` come from."""
        if options.weights != "trained":
            raise UserError(
                f"{where}.weights: `{options.weights}`; "
                "the evaluation network is fitted on the images, set it to `trained`"
            )
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are loaded
            network = load_classifier(options, weights)
        head = network.get_classifier()
        if not isinstance(head, nn.Linear) or not hasattr(network, "forward_intermediates"):
            raise UserError(
                f"{where}.architecture: `{options.architecture}` has no linear classifier "
                "or no feature maps; take a ResNet or ViT of timm"
            )
        self.sha256 = state_sha256(network)
        self.warnings: list[str] = []
        self._device = torch.device(device)
        self._input = NetworkInput(options.image_size, *normalisation(network))
        self._network = network.to(self._device).eval().requires_grad_(False)
        self._head = head
        self._middle = len(network.feature_info) // 2
        self._description = {
            "architecture": options.architecture,
            "arguments": dict(options.arguments),
            "image_size": options.image_size,
        }

    def features(self, images: Tensor) -> Features:
        """Features of uint8 `images` [B, 3, H, W]."""
        with torch.inference_mode(), full_precision():
            x = self._input(images.to(self._device))
            last, (middle,) = self._network.forward_intermediates(
                x, indices=[self._middle], output_fmt="NCHW"
            )
            pool = self._network.forward_head(last, pre_logits=True)  # [B, D]
            logits = pool @ self._head.weight.T  # [B, K]
            spatial = middle[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)  # [B, h * w * 7]
        return Features(pool.float().cpu(), logits.float().cpu(), spatial.float().cpu())

    def describe(self) -> dict[str, Any]:
        """Architecture and hash of the network."""
        return {**self._description, "sha256": self.sha256}
