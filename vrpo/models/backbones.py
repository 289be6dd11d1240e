"""Networks by name: the transformer, and one's own (docs/extending.md)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from vrpo.errors import UserError
from vrpo.models.transformer import DiffusionTransformer, build_transformer, network_arguments

if TYPE_CHECKING:
    from vrpo.config.resolved import ModelOptions

T = TypeVar("T")


def build_network(model: ModelOptions, latent_shape: tuple[int, ...] | list[int], out_channels: int) -> DiffusionTransformer | nn.Module:
    """The network of `model` for latents of shape (C, h, w): the transformer, or the class that `model.backbone` names.

    A class of one's own takes the keyword arguments of `DiffusionTransformer` and those in `model.arguments`. It has `null_label` and, as there,
    `forward(x, t, labels, hidden_after)`; `hidden` where VRPO compares with the averaged network, `traced` where HASTE reads attention.

    Raises:
        UserError: as `build_transformer`, or the class cannot be imported or constructed.
    """
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return build_transformer(model, latent_shape, out_channels)
    sizes = network_arguments(model, latent_shape, out_channels)
    network_class = import_class(backbone, nn.Module, f"model {model.name}")
    try:
        return network_class(**sizes, **model.arguments)
    except TypeError as error:
        raise UserError(f"model {model.name}: `{backbone}` cannot be built with {model.arguments} ({error}); mend `arguments`, or the class") from error


def import_class(target: str, base: type[T], where: str) -> type[T]:
    """The class `module:Class` of one's own.

    Raises:
        UserError: it cannot be imported, or is no subclass of `base`.
    """
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{where}: `{target}` cannot be imported ({error}); put {module.split('.')[0]}.py beside the Snakefile") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{where}: `{target}` is not a subclass of {base.__module__}.{base.__qualname__}")
    return found
