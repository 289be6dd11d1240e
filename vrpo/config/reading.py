"""Reading config files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from pydantic import BaseModel

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.messages import validate
from vrpo.config.strict_yaml import dump_yaml, parse_yaml
from vrpo.errors import UserError
from vrpo.files import short_hash

Model = TypeVar("Model", bound=BaseModel)
SEAL = "# written by the workflow; hash of the lines above: "


def load_experiment(*paths: Path | str) -> ExperimentConfig:
    """Read one config file, or several of which later ones override earlier ones key by key.

    Raises:
        UserError: a file is missing or malformed, or an option is wrong.
    """
    return parse_experiment(merge_configs(paths), " + ".join(str(path) for path in paths))


def read_experiment(
    configs: Sequence[Path | str], settings: Sequence[str] = ()
) -> ExperimentConfig:
    """An experiment's config files, later ones over earlier ones, with `KEY=VALUE` over them.

    Raises:
        UserError: a file or setting is missing or malformed, or the options do not fit.
    """
    content = deep_merge(merge_configs(configs), parse_settings(settings))
    where = " + ".join([*map(str, configs), *(["--set"] if settings else [])])
    return parse_experiment(content, where)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Options of `KEY=VALUE` settings: dotted keys, values in YAML, later ones over earlier ones.

    Raises:
        UserError: one is not of this form, or its value is not YAML.
    """
    options: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        names = key.split(".")
        if not equals or not all(names):
            raise UserError(
                f"--set {setting}: not of the form KEY=VALUE; give e.g. training.batch_size=8"
            )
        value = parse_yaml(text, f"--set {key}")
        for name in reversed(names):
            value = {name: value}
        options = deep_merge(options, value)
    return options


def merge_configs(paths: Iterable[Path | str], assignments: Iterable[str] = ()) -> dict[str, Any]:
    """Options of config files, then of `NAME=VALUE` assignments (`--config`); later ones win.

    Raises:
        UserError: a file is missing or malformed, or an assignment is malformed or repeated.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = deep_merge(merged, read_yaml(path))
    assigned: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w-]*\w", name):
            raise UserError(
                f"--config {assignment}: not of the form NAME=VALUE; targets follow after `--`"
            )
        if name in assigned:
            remedy = f"write all of it into one, e.g. {name}='{{...}}'"
            raise UserError(f"--config {name}: given twice; {remedy}")
        assigned[name] = parse_yaml(value, f"--config {name}")
    return deep_merge(merged, assigned)


def parse_experiment(content: Mapping[str, Any], where: str) -> ExperimentConfig:
    """Check an experiment's options, which came from `where`: files and `--config`.

    Raises:
        UserError: an option is unknown, missing, of the wrong type or inconsistent with another.
    """
    return validate(ExperimentConfig, content, where)


def load_resolved(model: type[Model], path: Path | str) -> Model:
    """Read one resolved config as `model`.

    Raises:
        UserError: the file is missing, does not fit, or was edited after the workflow wrote it.
    """
    if not Path(path).exists():
        raise UserError(
            f"{path}: no such file; start the workflow again, which writes it, or correct the name"
        )
    content = read_yaml(path)
    body, seal, digest = Path(path).read_text(encoding="utf-8-sig").rpartition(SEAL)
    if seal and digest.strip() != short_hash(body.encode()):
        remedy = "start the workflow again, and change options in the experiment's config, not here"
        raise UserError(f"{path}: changed since this job was planned; {remedy}")
    return validate(model, content, str(path))


def sealed(options: Mapping[str, Any]) -> str:
    """Text of a resolved config; its last line lets `load_resolved` notice edits."""
    body = dump_yaml(options)
    return f"{body}{SEAL}{short_hash(body.encode())}\n"


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; mappings are merged key by key, other values replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = deep_merge(merged[key], value) if both else value
    return merged


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        UserError: it is missing or is not one.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():  # e.g. a pipe, read only once
            raise UserError(f"{path}: not a regular file; name a YAML file")
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; correct the name") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        remedy = "save the file with the encoding UTF-8"
        raise UserError(f"{path}: line {line}: not UTF-8 text; {remedy}") from None
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {fault}; name a file that can") from None
    content = parse_yaml(text, str(path))
    if isinstance(content, dict):
        return content
    found = {NoneType: "empty", list: "a list"}.get(type(content), "a single value")
    raise UserError(
        f"{path}: a config is a mapping of options, this is {found}; write lines `NAME: VALUE`"
    )
