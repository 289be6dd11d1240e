"""Networks by name: the transformer, and custom ones (docs/extending.md)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from vrpo.config.classes import find_class
from vrpo.errors import UserError
from vrpo.models.entangled import EntangledTransformer
from vrpo.models.transformer import DiffusionTransformer, build_transformer, network_arguments

if TYPE_CHECKING:
    from vrpo.config.resolved import ModelOptions

T = TypeVar("T")


def build_network(
    model: ModelOptions,
    latent_shape: tuple[int, ...] | list[int],
    out_channels: int,
    class_token: int | None = None,
) -> DiffusionTransformer | nn.Module:
    """The network of `model` for latents of shape (C, h, w): the transformer or `model.backbone`.

    With `class_token`, its channels, the transformer denoises one beside the latents (REG).

    A custom class takes the keyword arguments of `DiffusionTransformer` and those in
    `model.arguments`. It has `null_label` and, as there, `forward(x, t, labels, hidden_after)`;
    `hidden` where VRPO compares with the averaged network, `traced` where HASTE reads attention.

    Raises:
        UserError: as `build_transformer`, the class cannot be imported or constructed, or is to
            denoise a class token.
    """
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        network = DiffusionTransformer
        if class_token is not None:
            network = functools.partial(EntangledTransformer, class_token=class_token)
        return build_transformer(model, latent_shape, out_channels, network)
    if class_token is not None:
        raise UserError(
            f"model {model.name}: `{backbone}` denoises no class token, as REG needs; "
            "take a model without `backbone`, or another alignment"
        )
    sizes = network_arguments(model, latent_shape, out_channels)
    network_class = import_class(backbone, nn.Module, f"model {model.name}")
    try:
        return network_class(**sizes, **model.arguments)
    except TypeError as error:
        raise UserError(
            f"model {model.name}: `{backbone}` cannot be built with {model.arguments} ({error}); "
            "correct `arguments`, or the class"
        ) from error


def import_class(target: str, base: type[T], where: str) -> type[T]:
    """The class `module:Class`, as `find_class`.

    Raises:
        UserError: it cannot be imported, or is no subclass of `base`.
    """
    try:
        return find_class(target, base)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
