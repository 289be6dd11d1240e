"""Options of iREPA (`vrpo/alignment/irepa.py`)."""

from __future__ import annotations

from typing import ClassVar, Literal

from vrpo.config.alignments.base import SpatialOptions
from vrpo.config.alignments.repa import StaticOptions
from vrpo.config.base import option


class IREPAOptions(SpatialOptions, StaticOptions):
    """iREPA: REPA with a convolution and spatially normalized targets (arXiv:2512.10794)."""

    title: ClassVar[str] = "iREPA"
    loss: ClassVar[str] = "vrpo.alignment.irepa:IREPA"
    kind: Literal["irepa"] = option(..., "alignment of spatial structure")
    weight: float = option(
        1.0, "lambda, the weight of alignment beside the denoising loss; iREPA's code: 1", ge=0
    )

    @property
    def convolution(self) -> SpatialOptions:
        """See the base class."""
        return self
