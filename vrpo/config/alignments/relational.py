"""Options of the relational alignment (`vrpo/alignment/relational.py`)."""

from __future__ import annotations

from typing import ClassVar, Literal

from vrpo.config.alignments.base import ProjectedOptions
from vrpo.config.base import option


class RelationalOptions(ProjectedOptions):
    """Relational alignment: REPA, and cosines between the tokens of an image (arXiv:2605.16949)."""

    title: ClassVar[str] = "REPA (relational)"
    loss: ClassVar[str] = "vrpo.alignment.relational:Relational"
    kind: Literal["relational"] = option(..., "alignment of tokens and of the cosines between them")
    relation_weight: float = option(
        2.0, "weight of the mean squared error of the cosines between tokens; sREPA: 2", gt=0
    )
