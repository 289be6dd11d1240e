"""Classes in modules beside the Snakefile."""

from __future__ import annotations

import importlib
from typing import TypeVar

T = TypeVar("T")
CLASS = r"^[\w.]+:\w+$"
"""Pattern of the name of a class, `module:Class`."""


def find_class(target: str, base: type[T]) -> type[T]:
    """The class `module:Class`.

    Raises:
        ValueError: it cannot be imported, or is no subclass of `base`.
    """
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module raises
        file = f"{module.split('.')[0]}.py"
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]
        remedy = (
            f"put {file} beside the Snakefile, or correct the name"
            if missing
            else f"correct {file}"
        )
        raise ValueError(f"`{target}` cannot be imported ({error}); {remedy}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(
            f"`{target}` is not a subclass of {base.__module__}.{base.__qualname__}; correct it"
        )
    return found
