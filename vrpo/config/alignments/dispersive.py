"""Options of the dispersive loss (`vrpo/alignment/dispersive.py`)."""

from __future__ import annotations

from typing import ClassVar, Literal

from vrpo.config.alignments.base import UnguidedOptions
from vrpo.config.base import option


class DispersiveOptions(UnguidedOptions):
    """Dispersive loss: hidden tokens of different images repel each other (arXiv:2506.09027)."""

    title: ClassVar[str] = "Dispersive"
    loss: ClassVar[str] = "vrpo.alignment.dispersive:Dispersive"
    kind: Literal["dispersive"] = option(..., "dispersion of hidden tokens, without an encoder")
    depth: int = option(
        7, "block of the hidden tokens; the paper: a quarter of all, for XL 7", "blocks", ge=1
    )
    weight: float = option(
        0.5, "lambda, the weight beside the denoising loss; the paper: 0.5", gt=0
    )
    temperature: float = option(
        0.5, "temperature that squared distances are divided by; the paper: 0.5", ge=1e-3
    )
    group_size: int = option(
        16,
        "rollouts that repel each other; divides the batch; the paper: 16, the batch of one device",
        "rollouts",
        ge=2,
    )

    @property
    def group(self) -> int:
        """See the base class."""
        return self.group_size
