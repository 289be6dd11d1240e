"""Hashes of content: of files, folders and resolved configs, wherever they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vrpo.config.training import WITHOUT_EFFECT
from vrpo.data.layout import SEAL, read_attributes
from vrpo.errors import UserError
from vrpo.files import sha256

OPTIONS_WITHOUT_EFFECT = {*WITHOUT_EFFECT, "workers"}
"""Options of resolved configs that change no result, or only its last digits."""

WEIGHTS = ("weights", "decoder")
"""Options that may name files of weights."""


def content_hash(place: Path) -> str:
    """Hash of a file, or of all files of a folder; of an HDF5 file, its seal and size."""
    if place.is_dir():
        files = (path for path in sorted(place.iterdir()) if path.is_file())
        hashes = {path.name: content_hash(path) for path in files if path.name[0] != "."}
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    with contextlib.suppress(UserError):  # it is no HDF5 file of this pipeline
        attributes = read_attributes(place)
        if SEAL in attributes:
            return f"{attributes[SEAL]} {place.stat().st_size}"
    return sha256(place)


def config_hash(path: Path) -> str:
    """Hash of a resolved config: options that have an effect, and weights named by path."""
    options = _without(yaml.safe_load(path.read_text(encoding="utf-8")), "")
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def is_place(value: str) -> bool:
    """Whether `value` looks like a path, and something is there."""
    return bool(re.search(r"[/.]", value)) and Path(value).exists()


def _without(value: Any, name: str) -> Any:
    """The option `name` without parts that have no effect; weights as the hash of their file."""
    if isinstance(value, Mapping):
        names = {key: f"{name}.{key}".lstrip(".") for key in value}
        effective = (key for key in value if names[key] not in OPTIONS_WITHOUT_EFFECT)
        return {key: _without(value[key], names[key]) for key in effective}
    if isinstance(value, list):
        return [_without(part, name) for part in value]
    if name.rpartition(".")[2] in WEIGHTS and isinstance(value, str) and is_place(value):
        return content_hash(Path(value))
    return value
