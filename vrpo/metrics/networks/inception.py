"""Inception-v3 as ADM's evaluator uses it.

The network is torch-fidelity's port of the TensorFlow graph (0.4.0). One forward pass gives:

- pool: `pool_3`, 2,048 features (FID, precision, recall, KID);
- logits: pool times the classifier's weight, without its bias (Inception score);
- spatial: the first 7 channels of `mixed_6/conv`, which is `Mixed_6d.branch1x1` after batch norm
  and ReLU, as NHWC: 17 x 17 x 7 = 2,023 (sFID).
"""

from __future__ import annotations

import io
import urllib.error
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.metrics.exact import full_precision
from vrpo.metrics.networks.protocol import SPATIAL_CHANNELS, Features
from vrpo.models.weights import check_finite, printable, read_weights

URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the file at URL; pytorch-fid's pt_inception-2015-12-05-6726825d.pth is the same file."""

CPU_BATCH = 10  # images at once: a CPU is no faster with more, and one image's layer has 5 MB


class InceptionNetwork:
    """Inception-v3 with the weights of a file.

    It is a flat state dict, as torch-fidelity's or pytorch-fid's, or the same as safetensors.
    """

    def __init__(self, weights: Path, device: torch.device | str) -> None:
        self.sha256 = sha256(weights)
        self.warnings: list[str] = []
        if self.sha256 != SHA256:
            self.warnings.append(
                f"inception: {weights.name} has SHA-256 {self.sha256}, "
                f"the weights of published scores have {SHA256}; "
                "do not compare the scores with those"
            )
        self._device = torch.device(device)
        # 1.5 times as fast on a CPU, and as close to float64
        layout = torch.channels_last if self._device.type == "cpu" else torch.contiguous_format
        self._network = _build(weights).to(self._device, memory_format=layout)
        self._spatial: list[Tensor] = []
        self._network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def _keep_spatial(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        channels_last = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1)  # [B, 17, 17, 7]
        self._spatial.append(channels_last.flatten(1))

    def features(self, images: Tensor) -> Features:
        """Features of uint8 `images` [B, 3, H, W], resized to 299 as TensorFlow 1 does."""
        size = CPU_BATCH if self._device.type == "cpu" else len(images)
        return Features(*map(torch.cat, zip(*map(self._features, images.split(size)), strict=True)))

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._spatial.clear()
        with torch.inference_mode(), full_precision():
            pool, logits = self._network(images.to(self._device))
        return pool.cpu(), logits.cpu(), self._spatial.pop().cpu()

    def describe(self) -> dict[str, Any]:
        """Name and hash of the network."""
        return {"network": "inception-v3-2015-12-05", "sha256": self.sha256}


def find_weights(given: Path | None, fetch: bool = True) -> Path:
    """Inception's weights: `given`, or the file in torch's download folder.

    A missing file is downloaded there if `fetch` allows it.

    Raises:
        UserError: the file is missing, and cannot or may not be downloaded.
    """
    option = "evaluation.inception_weights"
    if given is not None:
        if not given.is_file():
            raise UserError(f"{option}: {given} does not exist; fetch {URL} and put it there")
        return given
    place = Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]
    if place.is_file():
        return place
    if not fetch:
        raise UserError(
            f"{option}: not given, and {place} does not exist; "
            f"fetch {URL} and put it there, or give its path"
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(place), hash_prefix=SHA256)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"{option}: not given, and the download failed ({error}); "
            f"fetch {URL} elsewhere and put it at {place}, or give its path "
            "(of `vrpo evaluate`: `--weights FILE`)"
        ) from error
    return place


def _build(weights: Path) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state, _ = read_weights(weights, f"fetch {URL}")
    check_finite(state, weights, f"fetch {URL}")
    # torch-fidelity unpickles without limits; it gets a copy of what was read with them
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(0)
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights before it loads them
        try:
            return FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048", "logits_unbiased"],
                feature_extractor_weights_path=buffer,
            )
        except (RuntimeError, AttributeError, TypeError) as error:
            what = printable(" ".join(str(error).split()))
            raise UserError(
                f"{weights}: not the weights of this Inception ({what[:300]}); fetch {URL}"
            ) from error
