"""The projector from hidden tokens to an encoder's tokens (REPA, arXiv:2410.06940, section 3)."""

from __future__ import annotations

from torch import nn


class Projector(nn.Sequential):
    """Three linear layers with SiLU between: tokens [...,width_in] to [...,width_out]. Weights Xavier-uniform, biases zero, as in REPA."""

    def __init__(self, width_in: int, width_hidden: int, width_out: int) -> None:
        super().__init__(nn.Linear(width_in, width_hidden), nn.SiLU(), nn.Linear(width_hidden, width_hidden), nn.SiLU(), nn.Linear(width_hidden, width_out))
        for layer in (self[0], self[2], self[4]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
