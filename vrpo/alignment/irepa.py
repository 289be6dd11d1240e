"""iREPA: REPA that accentuates the spatial structure of the encoder's tokens (Singh et al., arXiv:2512.10794, its "3 lines of code")."""

from __future__ import annotations

from typing import Any

from vrpo.alignment.repa import REPA
from vrpo.alignment.spatial import SpatialStructure


class IREPA(REPA):
    """`L = -lambda * mean_n cos(conv(h)_n, normalised(y)_n)`: a convolution in the place of REPA's MLP, and targets without what all tokens share.

    The paper and the code's README take kernel 3; the code's latent diffusion runs kernel 1 unless told otherwise, gamma 0.6 and lambda 1.
    """

    def __init__(self, *, kernel_size: int, gamma: float, **shape: Any) -> None:
        """`kernel_size` and `gamma` as in `SpatialStructure`, the rest as in `REPA`."""
        super().__init__(spatial=SpatialStructure(kernel_size, gamma), **shape)
