"""iREPA: REPA that accentuates the spatial structure of the encoder's tokens (Singh et al., arXiv:2512.10794, its "3 lines of code")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vrpo.alignment.base import Alignment, AlignmentBatch, AlignmentResult, cosine_similarity
from vrpo.models.projector import ConvolutionalProjector


def spatial_normalisation(tokens: Tensor, gamma: float, eps: float = 1e-6) -> Tensor:
    """`(y - gamma mean_n y) / (std_n y + eps)` for each image and channel; tokens [B,N,D], the deviation is unbiased; in fp32."""
    with torch.autocast(tokens.device.type, enabled=False):
        tokens = tokens.float()
        std, mean = torch.std_mean(tokens, dim=1, keepdim=True)  # (B, 1, D)
        return (tokens - gamma * mean) / (std + eps)


class IREPA(Alignment):
    """`L = -lambda * mean_n cos(conv(h)_n, normalised(y)_n)`: a convolution in the place of REPA's MLP, and targets without what all tokens share.

    The paper and the code's README take kernel 3; the code's latent diffusion runs kernel 1 unless told otherwise, gamma 0.6 and lambda 1.
    """

    logged = ("fidelity", "semantic")

    def __init__(self, *, weight: float, kernel_size: int, gamma: float, width: int, token_widths: dict[str, int], depth: int) -> None:
        """`weight` is lambda; the rest as in `vrpo.config.alignments.IREPAOptions` and `ProjectedAlignment`."""
        super().__init__()
        self.hidden_after, self.encoders = (depth,), tuple(token_widths)
        self.weight, self.gamma = weight, gamma
        self.projectors = nn.ModuleList(ConvolutionalProjector(width, size, kernel_size) for size in token_widths.values())

    def forward(self, batch: AlignmentBatch) -> AlignmentResult:
        """See the class."""
        cosines = [
            cosine_similarity(projector(batch.hidden[0]), spatial_normalisation(batch.tokens[name], self.gamma)).mean(dim=1)
            for name, projector in zip(self.encoders, self.projectors, strict=True)
        ]
        cosine = torch.stack(cosines).mean(dim=0)  # (B)
        self.log.add(batch.noise_level, fidelity=-batch.error, semantic=cosine)
        return AlignmentResult(-self.weight * cosine.mean(), {"alignment": -cosine.detach().mean()})
