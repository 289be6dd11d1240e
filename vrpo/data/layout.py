"""Layout of this pipeline's HDF5 files: shapes, types and offsets of arrays, and attributes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from vrpo.errors import UserError

ATTRIBUTE = "vrpo"  # the root attribute: all attributes as one JSON object
CHECKSUMS = "crc32"  # uint32 [N], checksum of each row over all other arrays
SEAL = "seal"  # key of the JSON object, set last: hash of shapes, attributes and checksums
NUMBERS = "biuf"  # kinds of the types of elements


class Entry(NamedTuple):
    """Place of an array in its file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (first axis)."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


def read_layout(path: Path) -> dict[str, Entry]:
    """The arrays of a file, by name.

    Raises:
        UserError: it is no HDF5 file or truncated, or an array is scattered, not of numbers, or of
            another number of rows.
    """
    with _opened(path) as file:
        layout = {name: _entry(path, file, name) for name in sorted(file)}
    if len({entry.shape[0] for entry in layout.values()}) != 1:
        counts = [f"`{name}` has {entry.shape[0]:,}" for name, entry in layout.items()]
        rows = ", ".join(counts) or "there is none"
        raise UserError(
            f"{path}: its arrays have not equally many rows ({rows}); "
            "give the output of the stage before"
        )
    end = max(entry.offset + entry.shape[0] * entry.row_bytes for entry in layout.values())
    size = path.stat().st_size
    if size < end:
        raise UserError(
            f"{path}: truncated, {size:,} of {end:,} bytes are there; delete it and start again"
        )
    return layout


def _entry(path: Path, file: h5py.File, name: str) -> Entry:
    dataset = file[name]
    here = (
        isinstance(dataset, h5py.Dataset)
        and isinstance(file.get(name, getlink=True), h5py.HardLink)
        and not dataset.external
    )
    offset = dataset.id.get_offset() if here else None
    if offset is None:
        raise UserError(
            f"{path}: `{name}` is not contiguous and unfiltered; write the file with this "
            "pipeline, or repack it (`h5repack -l CONTI -f NONE`)"
        )
    if dataset.dtype.kind not in NUMBERS or not dataset.shape:
        raise UserError(
            f"{path}: `{name}` is no array of numbers ({dataset.dtype} {list(dataset.shape)}); "
            "give the output of the stage before"
        )
    return Entry(dataset.shape, dataset.dtype, offset)


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes of a file, with the seal.

    Raises:
        UserError: it is not one of this pipeline's, or its attributes are damaged.
    """
    with _opened(path) as file:
        if ATTRIBUTE not in file.attrs:
            raise UserError(
                f"{path}: was not written by this pipeline (it has no attribute `{ATTRIBUTE}`); "
                "give the output of the stage before"
            )
        text = bytes(file.attrs[ATTRIBUTE]).rstrip(b"\x00")
    try:
        attributes = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged, its attribute `{ATTRIBUTE}` cannot be read ({error}); "
            "delete it and rebuild it"
        ) from error
    if not isinstance(attributes, dict):
        raise UserError(
            f"{path}: damaged, its attribute `{ATTRIBUTE}` is no JSON object; "
            "delete it and rebuild it"
        )
    return attributes


class Attributes(dict[str, Any]):
    """Attributes of the file or folder `path`; a missing one raises a `UserError`."""

    def __init__(self, path: Path, attributes: Mapping[str, Any]) -> None:
        super().__init__(attributes)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise UserError(
            f"{self.path}: has no attribute `{name}`, it is the output of another stage; "
            "give that of the stage before"
        )


def layout_key(
    shapes: Mapping[str, tuple[tuple[int, ...], Any]], attributes: Mapping[str, Any]
) -> str:
    """Hex SHA-256 of shapes, types and attributes."""
    layout = {name: [list(shape), np.dtype(dtype).str] for name, (shape, dtype) in shapes.items()}
    text = as_json({"layout": layout, "attributes": dict(attributes)})
    return hashlib.sha256(text.encode()).hexdigest()


def shapes_of(layout: Mapping[str, Entry]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each array."""
    return {name: (entry.shape, entry.dtype) for name, entry in layout.items()}


def as_json(attributes: Mapping[str, Any]) -> str:
    """The one text of equal attributes."""
    return json.dumps(attributes, sort_keys=True)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; run the stage that makes it (`snakemake {path}`)"
            )
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: may not be read (permission denied); make it readable") from error
    except Exception as error:  # h5py raises nearly anything on damaged files
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: not an HDF5 file, truncated or damaged ({reason}); delete it and start again"
        ) from error
