"""The option reference, docs/options.md, and the JSON schema, from the config classes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vrpo.config.experiment import ExperimentConfig
from vrpo.files import write_text_if_changed

HEADER = """# Options

To change an option, set it in a YAML file (see [Configs](../config/README.md)) or on the command
line, section by section:

    snakemake --cores all --config seeds='[0, 1, 2]' training='{batch_size: 128}'

An editor with a YAML language server completes and checks options, because the configs name
[options.schema.json](options.schema.json) in their first line. Copy that line into your own file.

Files are UTF-8. YAML is read strictly: a key given twice, an octal number (`010`) or a date
without quotes is refused with its line. Keys are text, also `1` and `no`; `1e-4` is a number;
`<<: *anchor` merges.

`vrpo docs` generates this page and the schema from `vrpo/config`.
"""
TYPE_NAMES = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    NoneType: "null",
    Any: "any",
}


def write_docs(folder: Path | str) -> list[Path]:
    """Write `options.md` and `options.schema.json` into `folder`; returns the changed ones."""
    texts = {"options.md": option_reference(), "options.schema.json": schema_text()}
    files = {Path(folder, name): text for name, text in texts.items()}
    return [path for path, text in files.items() if write_text_if_changed(path, text)]


def schema_text() -> str:
    """The JSON schema of a config file. Files are merged, so none must have everything."""
    return json.dumps(_of_a_part(ExperimentConfig.model_json_schema()), indent=2) + "\n"


def _of_a_part(schema: Any) -> Any:
    """A schema without required options; a part may then fit several forms of one option."""
    if isinstance(schema, list):
        return [_of_a_part(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        "anyOf" if key == "oneOf" else key: _of_a_part(inner)
        for key, inner in schema.items()
        if key != "discriminator" and not (key == "required" and isinstance(inner, list))
    }


def option_reference() -> str:
    """Markdown: a section for each class of options, in the order of a config file."""
    return "\n".join([HEADER, *(_section(model) for model in _classes(ExperimentConfig, []))])


def _classes(model: type[BaseModel], seen: list[type[BaseModel]]) -> list[type[BaseModel]]:
    if model not in seen:
        seen.append(model)
        for field in model.model_fields.values():
            for inner in _models_in(field.annotation):
                _classes(inner, seen)
    return seen


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _section(model: type[BaseModel]) -> str:
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    rows += [_row(name, field) for name, field in model.model_fields.items()]
    return "\n".join([f"## {model.__name__}", "", (model.__doc__ or "").strip(), "", *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    type_text, unit = _type_text(field.annotation), extra.get("unit")
    cells = [
        f"`{name}`",
        f"{type_text}, {unit}" if unit else type_text,
        _default_text(field),
        re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", field.description or "").replace("|", "\\|"),
    ]
    return f"| {' | '.join(cells)} |"


def _type_text(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(map(_type_text, arguments))
    if origin is dict:
        return f"mapping of names to {_type_text(arguments[1])}"
    if origin is list:
        return f"list of {_type_text(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type_text, arguments))}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return TYPE_NAMES[annotation]


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined or isinstance(default, BaseModel):
        return ""
    return f"`{json.dumps(default)}`"
