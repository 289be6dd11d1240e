"""Alignment losses by the `kind` of their options; a new one is added here with one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vrpo.alignment.base import Alignment
from vrpo.alignment.haste import HASTE
from vrpo.alignment.irepa import IREPA
from vrpo.alignment.repa import REPA
from vrpo.alignment.vrpo import VRPO, Critic
from vrpo.models.backbones import import_class

if TYPE_CHECKING:
    from vrpo.config.alignments import AlignmentOptions, NoAlignment

ALIGNMENTS: dict[str, type[Alignment]] = {
    "none": Alignment,
    "repa": REPA,
    "vrpo": VRPO,
    "irepa": IREPA,
    "haste": HASTE,
}


def build_alignment(options: AlignmentOptions | NoAlignment, *, width: int, token_widths: dict[str, int], critics: dict[str, Critic]) -> Alignment:
    """The alignment that `options` describe.

    Args:
        options: its options; every field but `kind` and `encoders` becomes a keyword argument.
        width: channels W of the transformer's hidden tokens.
        token_widths: channels D of the tokens of each encoder in `options.encoders`.
        critics: frozen latent critics by encoder; empty where the perceptual reward is not used.

    Raises:
        UserError: a loss of one's own cannot be imported.
    """
    if options.kind == "none":
        return Alignment()
    arguments: dict[str, Any] = {name: getattr(options, name) for name in type(options).model_fields if name not in ("kind", "encoders")}
    if options.kind == "vrpo":
        arguments["critics"] = critics
    if options.kind == "custom":
        loss = import_class(arguments.pop("loss"), Alignment, "alignments")
        arguments |= arguments.pop("arguments")
    else:
        loss = ALIGNMENTS[options.kind]
    return loss(width=width, token_widths=token_widths, **arguments)
