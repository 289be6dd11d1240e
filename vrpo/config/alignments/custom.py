"""Options of a custom alignment loss (docs/extending.md)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from vrpo.config.alignments.base import ProjectedOptions
from vrpo.config.base import Names, Options, option, shown
from vrpo.config.classes import CLASS, find_class
from vrpo.config.messages import nearest


class CustomOptions(ProjectedOptions):
    """A custom alignment loss, in a module beside the Snakefile (docs/extending.md)."""

    kind: Literal["custom"] = option(..., "a custom loss")
    encoders: Names = option(
        ..., "keys of `encoders`: their tokens are given to the loss", min_length=1
    )
    loss: str = option(
        ..., "`module:Class`, a subclass of `vrpo.alignment.base.ProjectedAlignment`", pattern=CLASS
    )
    options: str | None = option(
        None,
        "`module:Class` of its own options, a subclass of `vrpo.config.Options`; null: it has none",
        pattern=CLASS,
    )
    arguments: Any = option(dict, "its own options: a mapping", validate_default=True)

    @field_validator("options")
    @classmethod
    def _importable(cls, named: str | None) -> str | None:
        if named is not None:
            find_class(named, Options)
        return named

    @field_validator("arguments")
    @classmethod
    def _known(cls, given: Any, info: ValidationInfo) -> Any:
        """The options as the named class has them, which refuses all others."""
        if isinstance(given, Options) or "options" not in info.data:  # checked, or cannot be
            return given
        if not isinstance(given, dict):
            raise ValueError(f"{shown(given)} is not a mapping; write lines `NAME: VALUE`")
        named = info.data["options"]
        found = find_class(named, Options) if named else Options
        unknown = [str(name) for name in given if name not in found.model_fields]
        if unknown:
            told = {name: _unknown(name, found) for name in unknown}
            raise ValidationError.from_exception_data(
                "arguments", [{"type": told[name], "loc": (name,), "input": None} for name in told]
            )
        return found.model_validate(given)


def _unknown(name: str, found: type[Options]) -> PydanticCustomError:
    remedy = "the loss has no options of its own; name their class in `options`"
    if found is not Options:
        remedy = f"there is no such option; {nearest(name, found.model_fields)}"
    return PydanticCustomError("value_error", "{remedy}", {"remedy": remedy})
