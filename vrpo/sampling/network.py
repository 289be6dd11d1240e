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
        self.null_label, self.joint = network.null_label, getattr(network, "joint", None)
        self.precision = precision
        self.network = self.plain = network
        if compiled:
            own = isinstance(network, DiffusionTransformer)  # a custom one may break the graph
            self.network = torch.compile(network, fullgraph=own, dynamic=False)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `DiffusionTransformer.forward`, without hidden tokens; `x` may be float64."""
        with self._autocast(x):
            return self.network(x.float(), t, labels)

    def with_hidden(
        self, x: Tensor, t: Tensor, labels: Tensor, depth: int
    ) -> tuple[Tensor, Tensor]:
        """Prediction [B,P,h,w], and hidden tokens [B,N,W] after block `depth`; never compiled.

        The gradient of the hidden tokens reaches `x`. Later blocks record none, where the network
        has `traced`.
        """
        with self._autocast(x):
            if hasattr(self.plain, "traced"):
                prediction, hidden, _ = self.plain.traced(
                    x.float(), t, labels, (depth,), gate=lambda tokens: (tokens.detach(), tokens)
                )
            else:
                prediction, hidden = self.plain(x.float(), t, labels, hidden_after=(depth,))
        return prediction, hidden[0]

    @torch.no_grad()
    def hidden(self, x: Tensor, t: Tensor, labels: Tensor, depth: int) -> Tensor:
        """Hidden tokens [B,N,W] after block `depth`; later ones run only in a custom network."""
        if not hasattr(self.plain, "hidden"):
            return self.with_hidden(x, t, labels, depth)[1]
        with self._autocast(x):
            return self.plain.hidden(x.float(), t, labels, after=depth)

    def _autocast(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16")
