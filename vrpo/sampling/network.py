"""The network as the samplers call it: in its own precision (`tf32` is a switch of the GPU's) or under bf16 autocast, plain or compiled."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vrpo.models.transformer import DiffusionTransformer


class SamplingNetwork:
    """A network for inference with the interface that `Guided` calls; compiled code is for one batch shape, and one more under guidance."""

    def __init__(
        self,
        network: DiffusionTransformer,
        precision: Literal["fp32", "tf32", "bf16"] = "fp32",
        compiled: bool = False,
    ) -> None:
        self.null_label = network.null_label
        self.precision = precision
        self.network = (
            torch.compile(network, fullgraph=True, dynamic=False) if compiled else network
        )

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `DiffusionTransformer.forward`, without hidden tokens; the state may be float64, as the samplers' is."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network(x.float(), t, labels)
