"""Options of REG (`vrpo/alignment/reg.py`)."""

from __future__ import annotations

from typing import ClassVar, Literal

from vrpo.config.alignments.base import ProjectedOptions
from vrpo.config.alignments.repa import StaticOptions
from vrpo.config.base import Names, option


class REGOptions(StaticOptions, ProjectedOptions):
    """REG: REPA, and the encoder's class token denoised with the latents (arXiv:2507.01467)."""

    title: ClassVar[str] = "REG"
    loss: ClassVar[str] = "vrpo.alignment.reg:REG"
    needs_class_token: ClassVar[bool] = True
    kind: Literal["reg"] = option(..., "static alignment, and a denoised class token")
    encoders: Names = option(
        ..., "key of `encoders`: its tokens are the targets", min_length=1, max_length=1
    )
    class_token_weight: float = option(
        0.03, "beta, the weight of the class token's denoising loss; REG: 0.03", gt=0
    )
