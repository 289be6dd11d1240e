"""The network as the samplers call it: as it is or under bf16 autocast, plain or compiled."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vrpo.models.transformer import DiffusionTransformer


class SamplingNetwork:
    """A network for inference with the interface that `Guided` calls.

    Compiled code is for one batch shape, and one more under guidance. TF32 is a switch of the GPU.
    """

    def __init__(
        self,
        network: DiffusionTransformer,
        precision: Literal["fp32", "tf32", "bf16"] = "fp32",
        compiled: bool = False,
    ) -> None:
        self.null_label = network.null_label
        self.precision = precision
        self.network = network
        if compiled:
            own = isinstance(network, DiffusionTransformer)  # a custom one may break the graph
            self.network = torch.compile(network, fullgraph=own, dynamic=False)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `DiffusionTransformer.forward`, without hidden tokens; `x` may be float64."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network(x.float(), t, labels)
