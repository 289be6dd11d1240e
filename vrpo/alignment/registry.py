"""The loss of alignment options: the class that they name (`vrpo.config.alignments.KINDS`)."""

from __future__ import annotations

from vrpo.alignment.base import Alignment, AlignmentContext
from vrpo.config.alignments import AnyAlignment
from vrpo.models.backbones import import_class


def build_alignment(options: AnyAlignment, context: AlignmentContext) -> Alignment:
    """The alignment that `options` describe, with new weights.

    Raises:
        UserError: a custom loss cannot be imported.
    """
    return import_class(options.loss, Alignment, "alignments")(options, context)
