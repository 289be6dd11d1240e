"""The listing of a source in a file: made once, and read by each job that writes a shard, which otherwise would look at every image anew."""

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
LISTED = {
    "source",
    "root",
    "class_index",
    "resolution",
    "num_classes",
}  # the options that it depends on
STATE = "state"  # all that is neither array nor names, as JSON


def save_listing(source: EncodedSource, options: DataOptions, path: Path | str) -> None:
    """Write what `source`, opened with `options`, knows of its images (.npz): what worker processes are given, too."""
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
    """The source that was written to `path`; None where that is missing, damaged, or of other options. Whether it is current, ask the source."""
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
