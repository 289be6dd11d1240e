"""Options of SRA (`vrpo/alignment/sra.py`)."""

from __future__ import annotations

from typing import ClassVar, Literal

from vrpo.config.alignments.base import CleanerTarget, UnguidedOptions
from vrpo.config.base import option


class SRAOptions(UnguidedOptions):
    """SRA: alignment with the averaged network's later block at less noise (arXiv:2505.02831)."""

    title: ClassVar[str] = "SRA"
    loss: ClassVar[str] = "vrpo.alignment.sra:SRA"
    kind: Literal["sra"] = option(..., "self-representation alignment, without an encoder")
    depth: int = option(8, "block of the hidden tokens; SRA: 8 for XL, 4 for B", "blocks", ge=1)
    target_depth: int = option(
        20,
        "block of the averaged network's; SRA: 20 for SiT-XL, 16 for DiT-XL, 8 for B",
        "blocks",
        ge=1,
    )
    noise_gap: float = option(
        0.2,
        "bound of the difference of noise levels, uniform between 0 and it; SRA: 0.2",
        ge=0,
        le=1,
    )
    weight: float = option(
        0.2,
        "lambda, the weight beside the denoising loss; SRA, for 150 epochs: 0.2 for SiT, 0.04 for "
        "DiT",
        gt=0,
    )
    beta: float = option(
        0.05, "distance at which the loss turns from quadratic to linear; SRA: 0.05", gt=0
    )

    @property
    def cleaner_target(self) -> CleanerTarget:
        """See the base class."""
        return CleanerTarget(self.target_depth, self.noise_gap)
