"""iREPA: REPA on the spatial structure of the tokens (Singh et al., arXiv:2512.10794)."""

from __future__ import annotations

from vrpo.alignment.repa import REPA


class IREPA(REPA):
    """`L = -lambda * mean_n cos(conv(h)_n, normalized(y)_n)`: REPA with `options.convolution`.

    The paper and the code's README take kernel 3; the code's latent diffusion runs kernel 1 unless
    told otherwise, gamma 0.6 and lambda 1.
    """
