"""Options of HASTE (`vrpo/alignment/haste.py`)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from vrpo.config.alignments.base import ProjectedOptions
from vrpo.config.base import Ascending, option


class HASTEOptions(ProjectedOptions):
    """HASTE: REPA and attention distillation, both stopped at one step (arXiv:2505.16792)."""

    title: ClassVar[str] = "HASTE"
    loss: ClassVar[str] = "vrpo.alignment.haste:HASTE"
    kind: Literal["haste"] = option(..., "alignment of tokens and attention maps, with a stop")
    attention_weight: float = option(
        0.5, "weight of the cross-entropy between attention maps; HASTE's code: 0.5", ge=0
    )
    attention_blocks: Ascending = option(
        lambda: [5, 6, 7, 8],
        "blocks whose attention maps are aligned with those of `encoders.<e>.attention`, in order; "
        "HASTE: 5 to 8 of XL with 9 to 12 of DINOv2-B",
        "blocks",
        min_length=1,
    )
    stop_step: int = option(
        250_000, "from this step on nothing is aligned; HASTE: 250,000 for XL", "steps", ge=0
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> HASTEOptions:
        if self.weight == 0 and self.attention_weight == 0:
            raise ValueError(
                "`weight` and `attention_weight` are zero, nothing is aligned; "
                "use `kind: none` for that"
            )
        return self

    @property
    def attention_of(self) -> list[int]:
        """See the base class."""
        return self.attention_blocks
