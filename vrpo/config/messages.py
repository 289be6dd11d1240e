"""Pydantic's errors, one line each: the option's full name, the fault and the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from vrpo.config.base import shown
from vrpo.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    """Make `model` of `content`, which came from `where`.

    Raises:
        UserError: one line per mistake.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_one_line(_explain(model, problem)) for problem in error.errors()]
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from error


def require_known(where: str, name: str, known: Mapping[str, Any], section: str) -> None:
    """Raise `ValueError` unless `name`, given at `where`, is among the names of `section`."""
    if name not in known:
        raise ValueError(f"{where}: {_quoted(name)} is not in `{section}`; {nearest(name, known)}")


REQUESTS = "requests of jobs are in the profile, or --set-resources RULE:"
MOVED = {  # options of earlier versions
    ("", "methods"): "the section is called `benchmark` now",
    ("resources", "gpus"): f"{REQUESTS}gpu=N; for none set `device: cpu`",
    ("resources", "sample_gpus"): f"{REQUESTS}gpu=N",
    ("resources", "gres"): f"{REQUESTS}gres=NAME:N",
    ("resources", "memory_mb"): f"{REQUESTS}mem_mb=N",
    ("resources", "cpu_memory_mb"): f"{REQUESTS}mem_mb=N",
    ("resources", "runtime_minutes"): f"{REQUESTS}runtime=N",
    ("resources", "max_runtime_minutes"): f"{REQUESTS}runtime=N",
}


def nearest(wrong: str, known: Iterable[str], label: str = "known") -> str:
    """The question whether the most similar of `known` names is meant, or else all of them."""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"{label}: {', '.join(known) or 'none'}"


def _explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    kind = problem["type"]
    if kind == "extra_forbidden":
        *parents, wrong = problem["loc"]
        section, known = _locate(model, parents)
        place = f" in `{section}`" if section else ""
        remedy = MOVED.get((section, wrong)) or nearest(str(wrong), known, "known here")
        return f"unknown option {_quoted(wrong)}{place}; {remedy}"
    name, _ = _locate(model, problem["loc"])
    if kind == "missing":
        return f"`{name}` is missing; it has no default"
    if kind == "union_tag_not_found":
        return f"`{name}.kind` is missing; it has no default"
    if kind == "union_tag_invalid":
        tag, tags = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
        known = tags.replace("'", "").split(", ")
        return f"{name}.kind: there is no kind {_quoted(tag)}; {nearest(tag, known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{name}: {message}" if name else message
    message = re.sub(r"a valid dictionary.*", "a mapping", message)
    message = f"{message[0].lower()}{message[1:]}, not {shown(problem['input'])}"
    is_number = kind == "string_type" and isinstance(problem["input"], int | float)
    return f"{name}: {message}; {'put it in quotes' if is_number else 'correct it'}"


def _quoted(name: Any) -> str:
    return f"`{name}`" if len(str(name)) <= 60 else f"`{str(name)[:57]}...`"


def _one_line(message: str) -> str:
    """`message` with control characters written out, and without its middle if very long."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)
    return line if len(line) <= 500 else f"{line[:250]} ... {line[-240:]}"


def _locate(model: type[BaseModel], loc: tuple[Any, ...] | list[Any]) -> tuple[str, list[str]]:
    """The dotted name of pydantic's `loc` in `model`, without union tags, and the options there."""
    here: Any = model
    names: list[str] = []
    for part in loc:
        here = _unwrap(here)
        if _is_options(here) and part in here.model_fields:
            names.append(str(part))
            here = here.model_fields[part].annotation
        elif get_origin(here) is dict:
            names.append(str(part))
            here = get_args(here)[1]
        elif part == "[key]":  # the name just passed is at fault
            continue
        elif get_origin(here) in (list, tuple):
            names.append(str(part))
            here = get_args(here)[0]
        elif get_origin(here) in (Union, UnionType):
            here = next((member for member in get_args(here) if part in _tags(member)), None)
        else:
            names.append(str(part))
            here = None
    here = _unwrap(here)
    return ".".join(names), list(here.model_fields) if _is_options(here) else []


def _unwrap(annotation: Any) -> Any:
    """Without `Annotated` and without `| None`."""
    if get_origin(annotation) is Annotated:
        return _unwrap(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not NoneType]
        return _unwrap(members[0]) if len(members) == 1 else annotation
    return annotation


def _is_options(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tags(member: Any) -> tuple[Any, ...]:
    if get_origin(member) is Annotated:
        return tuple(item.tag for item in member.__metadata__ if isinstance(item, Tag))
    has_kind = _is_options(member) and "kind" in member.model_fields
    return get_args(member.model_fields["kind"].annotation) if has_kind else ()
