"""Options of the contrastive alignment (`vrpo/alignment/contrastive.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from vrpo.config.alignments.base import ProjectedOptions
from vrpo.config.base import option

if TYPE_CHECKING:
    from vrpo.config.training import TrainingOptions


class ContrastiveOptions(ProjectedOptions):
    """Contrastive alignment: REPA with NT-Xent in place of the cosine (arXiv:2410.06940)."""

    title: ClassVar[str] = "REPA (contrastive)"
    loss: ClassVar[str] = "vrpo.alignment.contrastive:Contrastive"
    kind: Literal["contrastive"] = option(
        ..., "alignment that tells an image's tokens from those of the batch's other images"
    )
    weight: float = option(
        0.5, "lambda, the weight of alignment beside the denoising loss; REPA: 0.5", gt=0
    )
    temperature: float = option(
        0.1,
        "temperature that cosines are divided by; SimCLR on ImageNet: 0.1 (arXiv:2002.05709)",
        ge=1e-3,
    )

    def check(self, training: TrainingOptions) -> None:
        """See the base class."""
        if training.batch_size < 2:
            raise ValueError(
                "kind: a contrastive alignment has no negatives in a batch of one image "
                f"(training.batch_size {training.batch_size}); take 2 or more"
            )
