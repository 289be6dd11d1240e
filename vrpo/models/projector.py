"""Projectors from hidden tokens to the tokens that they are aligned with.

REPA's MLP (arXiv:2410.06940, section 3), iREPA's convolution (arXiv:2512.10794) and SRA's MLP
(arXiv:2505.02831).
"""

from __future__ import annotations

import math

from torch import Tensor, nn


class Projector(nn.Sequential):
    """Three linear layers with SiLU between: tokens [...,width_in] to [...,width_out].

    Weights are Xavier-uniform, biases zero, as in REPA.
    """

    def __init__(self, width_in: int, width_hidden: int, width_out: int) -> None:
        super().__init__(
            nn.Linear(width_in, width_hidden),
            nn.SiLU(),
            nn.Linear(width_hidden, width_hidden),
            nn.SiLU(),
            nn.Linear(width_hidden, width_out),
        )
        _initialise(self[0], self[2], self[4])


class SelfProjector(nn.Sequential):
    """Two linear layers with SiLU between: tokens [...,width] to the same, through 2 x width.

    Weights are Xavier-uniform, biases zero, as in SRA.
    """

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        _initialise(self[0], self[2])


class ConvolutionalProjector(nn.Conv2d):
    """One convolution over the grid of tokens: [B,N,width_in] to [B,N,width_out].

    N is a square number. PyTorch's initial weights, as in iREPA.
    """

    def __init__(self, width_in: int, width_out: int, kernel_size: int) -> None:
        super().__init__(width_in, width_out, kernel_size, padding=kernel_size // 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        side = math.isqrt(tokens.shape[1])
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))  # (B, width_in, side, side)
        return super().forward(grid).flatten(2).transpose(1, 2)


def _initialise(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
