"""Base class and types of all options."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema

GREATEST = 2**63 - 1
LONGEST_NAME = 100  # file names are at most 255 bytes, and some hold two names
LONGEST_PATH = 3_000  # bytes, of the system's 4,096
# Control characters, all but tab and line feed, and lone surrogates.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\ud800-\udfff]")

T = TypeVar("T")


def option(default: Any = ..., doc: str = "", unit: str | None = None, **constraints: Any) -> Any:
    """A field with its documentation and unit; `constraints` are pydantic's (`ge`, `le`, ...)."""
    extra = {"unit": unit} if unit else None
    value = {"default_factory" if callable(default) else "default": default}
    return Field(**value, description=doc, json_schema_extra=extra, **constraints)


class Options(BaseModel):
    """Base of all options: unknown names are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, content: Any) -> Any:
        """Refuse `true` where a number is expected: pydantic would take it for 1."""
        for name, field in cls.model_fields.items():
            value = content.get(name) if isinstance(content, dict) else None
            given = value if isinstance(value, list | tuple) else [value]
            has_truth = any(isinstance(item, bool) for item in given)
            if has_truth and {int, float} & set(_kinds(field.annotation)):
                raise ValueError(f"`{name}` is {shown(value)}; give a number")
        return content

    @field_validator("*")
    @classmethod
    def _within_limits(cls, value: Any) -> Any:
        _require_usable(value)
        return value


def shown(value: Any) -> str:
    """`value` as messages show it: on one line, and not long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write integers of more than 4,300 digits
        text = f"a {type(value).__name__} with too long a number"
    return text if len(text) <= 80 else f"{text[:60]}...{text[-17:]}"


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _kinds(argument)


def _require_usable(value: Any) -> None:
    """Raise `ValueError` for a value, at any depth, that no file or computation can hold."""
    if isinstance(value, int) and abs(value) > GREATEST:
        limit = f"beyond the largest number, {GREATEST}"
        raise ValueError(f"{shown(value)} is {limit}; give a smaller one")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not finite; give a finite number")
    if isinstance(value, str) and CONTROL.search(value):
        raise ValueError(f"{shown(value)} has control characters; remove them")
    if isinstance(value, dict):
        for item in [*value, *value.values()]:
            _require_usable(item)
    if isinstance(value, list | tuple):
        for item in value:
            _require_usable(item)


# ---- types of single options ---------------------------------------------------------------------


def _name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or len(name) > LONGEST_NAME:
        raise ValueError(
            "names consist of letters, digits, '.', '_' and '-', begin with one of the first two "
            f"and have at most {LONGEST_NAME} characters, as they become file names; "
            f"rename {shown(name)}"
        )
    if repeated := re.search(r"(.+?)\1{19}", name):
        raise ValueError(
            f"{shown(name)} repeats `{repeated[1]}` twenty times, "
            "which Snakemake takes for an endless loop; give another name"
        )
    return name


def _place(path: str) -> str:
    if not path.strip() or path.strip() != path:
        fault = "empty or begins or ends with a space"
        raise ValueError(f"{shown(path)} is {fault}; give a path or name")
    if "\n" in path or "\t" in path:
        raise ValueError(f"{shown(path)} has line breaks or tabs; give a path or name")
    expanded = re.sub(r"^~(?=/|$)", lambda _: str(Path.home()), path)
    longest = max((len(part.encode()) for part in Path(expanded).parts), default=0)
    if len(expanded.encode()) > LONGEST_PATH or longest > 255:
        raise ValueError(
            f"{shown(path)} is too long; file systems allow 255 bytes between slashes, "
            f"and {LONGEST_PATH} in all are taken"
        )
    return expanded


def _label(text: str) -> str:
    if not text.strip() or text != text.strip() or len(text) > 60 or re.search(r"[\n\t|$]", text):
        raise ValueError(
            f"{shown(text)} is empty, begins or ends with a space, "
            "has line breaks, tabs, `|` or `$`, or more than 60 characters; give another label"
        )
    return text


def _without_braces(path: str) -> str:
    if "{" in path or "}" in path:
        fault = "has braces, which are wildcards to Snakemake"
        raise ValueError(f"{shown(path)} {fault}; give another name")
    return path


def distinct(values: list[T]) -> list[T]:
    """`values`, which must differ from each other."""
    if len(set(values)) < len(values):
        raise ValueError(f"{shown(values)} must be different from each other; give each once")
    return values


def _ascending(values: list[T]) -> list[T]:
    if list(values) != sorted(set(values)):
        raise ValueError(f"{shown(values)} must be ascending, each given once; sort them")
    return values


class _NullLeavesOut:
    """A row that is null is left out, so that a later file can drop rows of an earlier one."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(_given, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        rows = handler(schema)
        row = rows["additionalProperties"]
        return {**rows, "additionalProperties": {"anyOf": [row, {"type": "null"}]}}


def _given(rows: Any) -> Any:
    if not isinstance(rows, dict):
        return rows
    return {name: row for name, row in rows.items() if row is not None}


Name = Annotated[str, AfterValidator(_name)]
"""Name that becomes part of file names, e.g. of a run, a sampler or an experiment."""
Rows = Annotated[dict[Name, T], _NullLeavesOut()]
"""Rows by name, of which those that are null are left out."""
Labelled = Annotated[dict[str, str], _NullLeavesOut()]
"""Names by label, of which those that are null are left out."""
Place = Annotated[str, AfterValidator(_place)]
"""A file or folder, in which a leading `~` is the home folder, or the name of published weights."""
WorkflowPlace = Annotated[Place, AfterValidator(_without_braces)]
"""A `Place` that is an input or output of the workflow's jobs."""
Text = Annotated[str, Field(min_length=1)]
Label = Annotated[str, AfterValidator(_label)]
"""Name in tables and figures."""
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Seeds = Annotated[list[Seed], AfterValidator(distinct)]
Names = Annotated[list[str], AfterValidator(distinct)]
"""Keys of another section."""
Ascending = Annotated[list[Positive], AfterValidator(_ascending)]
"""Steps, or blocks counted from 1."""
Distinct = Annotated[list[Positive], AfterValidator(distinct)]
"""Blocks counted from 1, in any order."""
