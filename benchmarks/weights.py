"""Stand-ins for weights that cannot be downloaded everywhere: meaningless, but as fast."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import nn


def write_random_inception(path: Path, images: np.ndarray, seed: int = 0) -> Path:
    """Write random weights of Inception-v3 as torch-fidelity reads them.

    Convolutions are drawn as Kaiming's, and batch norms calibrated on `images` uint8 [B, H, W, 3];
    without that all features would be about 1e-8.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Drawn(FeatureExtractorInceptionV3):
        def load_state_dict(self, state: object, *args: object, **kwargs: object) -> None:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                elif isinstance(module, nn.BatchNorm2d):
                    module.momentum = None  # one forward pass sets the running statistics

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Drawn("drawn", ["2048"], feature_extractor_weights_path=nothing)
    with torch.no_grad():
        network.train()(torch.from_numpy(images).permute(0, 3, 1, 2))
    state = network.state_dict().items()
    torch.save({name: each for name, each in state if "num_batches_tracked" not in name}, path)
    return path
