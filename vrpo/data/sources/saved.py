"""The listing of a source in a file.

It is made once, and read by each job that writes a shard, which need not list all images again.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vrpo.data.sources.archive import ZipSource
from vrpo.data.sources.base import EncodedSource, Names
from vrpo.data.sources.folder import FolderSource
from vrpo.data.sources.parquet import ParquetSource
from vrpo.data.sources.webdataset import WebDatasetSource
from vrpo.files import atomic_output

if TYPE_CHECKING:
    from vrpo.config.data import DataOptions

log = logging.getLogger(__name__)

KINDS = {kind.__name__: kind for kind in (FolderSource, ZipSource, WebDatasetSource, ParquetSource)}
LISTED = {"source", "root", "class_index", "resolution", "num_classes"}
"""Options that a listing depends on."""

STATE = "state"  # all but arrays and names, as JSON


def save_listing(source: EncodedSource, options: DataOptions, path: Path | str) -> None:
    """Write the images that `source`, opened with `options`, lists (.npz).

    These are the attributes that worker processes get, too.
    """
    source.describe()  # so that the fingerprint is known
    arrays: dict[str, np.ndarray] = {}
    rest: dict[str, Any] = {}
    for name, value in source.__getstate__().items():
        if isinstance(value, Names):
            arrays[f"names {name}"] = value.encoded
        elif isinstance(value, np.ndarray):
            arrays[f"array {name}"] = value
        else:
            rest[name] = str(value) if isinstance(value, Path) else value
    state = {
        "kind": type(source).__name__,
        "options": options.model_dump(include=LISTED),
        "rest": rest,
    }
    with atomic_output(path) as partial, open(partial, "wb") as file:
        np.savez(file, **{STATE: np.array(json.dumps(state))}, **arrays)


def load_listing(options: DataOptions, path: Path | str) -> EncodedSource | None:
    """Read the source that was written to `path`; its `is_current` tells whether it still holds.

    Returns None where the file is missing, damaged, or of other options.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        state = json.loads(str(arrays.pop(STATE)))
        if state["options"] != options.model_dump(include=LISTED):
            return None
        source = object.__new__(KINDS[state["kind"]])
        source.__dict__.update({**state["rest"], "root": Path(state["rest"]["root"])})
        for name, values in arrays.items():
            form, _, attribute = name.partition(" ")
            setattr(source, attribute, Names.of(values) if form == "names" else values)
    except Exception as error:  # whatever is wrong with the file, the data can be listed again
        log.warning("%s: the listing cannot be read (%s: %s)", path, type(error).__name__, error)
        return None
    return source
