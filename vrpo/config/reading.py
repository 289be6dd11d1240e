"""Reading config files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.messages import validate
from vrpo.errors import UserError


def load_experiment(*paths: Path | str) -> ExperimentConfig:
    """Read one config file, or several of which later ones override earlier ones key by key.

    Raises:
        UserError: a file is missing or malformed, or an option is unknown, of the wrong type or inconsistent.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = deep_merge(merged, read_yaml(path))
    return parse_experiment(merged, " + ".join(str(path) for path in paths))


def parse_experiment(content: Mapping[str, Any], where: str) -> ExperimentConfig:
    """Check an experiment's options, which came from `where` (files, or what Snakemake merged of files and `--config`).

    Raises:
        UserError: an option is unknown, missing, of the wrong type or inconsistent with another.
    """
    return validate(ExperimentConfig, content, where)


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; mappings are merged key by key, everything else is replaced."""
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
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such config file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a config is a mapping of options, this is {type(content).__name__}")
    return content
