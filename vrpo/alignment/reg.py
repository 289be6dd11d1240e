"""REG: the class token of the encoder is denoised with the latents (Wu et al., arXiv:2507.01467).

The network is `EntangledTransformer`, and the process noises the class token `c` as it does the
latents, to the same time. Hidden tokens and targets begin with it.
"""

from __future__ import annotations

from vrpo.alignment.base import AlignmentBatch, AlignmentResult
from vrpo.alignment.repa import REPA


class REG(REPA):
    """`L = beta ||v_c(x_t, c_t, t) - v_c||^2 / D - lambda mean_n cos(projector(h)_n, y_n)`.

    `v_c` is the class token's target under the process: the velocity, or DDPM's noise. The mean is
    over the class token and the patches.
    """

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        assert batch.class_token_error is not None, "the objective denoises the class token"
        aligned, error = super().forward(batch), batch.class_token_error.mean()
        loss = self.options.class_token_weight * error + aligned.loss
        return AlignmentResult(loss, {**aligned.metrics, "class_token": error.detach()})
