"""Alignment losses by the `kind` of their options; a new one is added here with one line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vrpo.alignment.base import Alignment
from vrpo.alignment.haste import HASTE
from vrpo.alignment.irepa import IREPA
from vrpo.alignment.repa import REPA
from vrpo.alignment.vrpo import VRPO, Critic
from vrpo.errors import UserError

if TYPE_CHECKING:
    from vrpo.config.options import AlignmentOptions, NoAlignment

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
        loss = _import_loss(arguments.pop("loss"))
        arguments |= arguments.pop("arguments")
    else:
        loss = ALIGNMENTS[options.kind]
    return loss(width=width, token_widths=token_widths, **arguments)


def _import_loss(target: str) -> type[Alignment]:
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"alignments: the loss `{target}` cannot be imported ({error}); put {module.split('.')[0]}.py beside the Snakefile") from error
    if not (isinstance(found, type) and issubclass(found, Alignment)):
        raise UserError(f"alignments: `{target}` is not a subclass of vrpo.alignment.base.Alignment")
    return found
