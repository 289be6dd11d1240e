"""What every group of options is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def option(default: Any = ..., doc: str = "", unit: str | None = None, **constraints: Any) -> Any:
    """A field with its documentation and unit; `constraints` are pydantic's (`ge`, `gt`, `le`, `min_length`, ...)."""
    extra = {"unit": unit} if unit else None
    if callable(default):
        return Field(default_factory=default, description=doc, json_schema_extra=extra, **constraints)
    return Field(default, description=doc, json_schema_extra=extra, **constraints)


class Options(BaseModel):
    """Base of all options: unknown names are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
