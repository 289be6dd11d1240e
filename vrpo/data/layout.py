"""What an HDF5 file of this pipeline holds, and where: shapes, types and offsets of its arrays, and its attributes."""

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
SEAL = "seal"  # key of the JSON object, set last: hash of all else that the file says of itself


class Entry(NamedTuple):
    """Where an array lies in its file."""

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
        UserError: it is no HDF5 file, is truncated, or holds arrays that have no single place in it.
    """
    with _opened(path) as file:
        layout = {}
        for name in sorted(file):
            dataset = file[name]
            offset = dataset.id.get_offset() if isinstance(dataset, h5py.Dataset) else None
            if offset is None:
                raise UserError(
                    f"{path}: `{name}` is not contiguous and unfiltered; write the file with this pipeline, or repack it (`h5repack -l CONTI -f NONE`)"
                )
            layout[name] = Entry(dataset.shape, dataset.dtype, offset)
    end = max((entry.offset + entry.shape[0] * entry.row_bytes if entry.shape else 0 for entry in layout.values()), default=0)
    if path.stat().st_size < end:
        raise UserError(f"{path}: truncated, {path.stat().st_size:,} of {end:,} bytes are there; delete it and start again")
    return layout


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes of a file, the seal among them.

    Raises:
        UserError: it is not one of this pipeline's, or its attributes are damaged.
    """
    with _opened(path) as file:
        if ATTRIBUTE not in file.attrs:
            raise UserError(f"{path}: was not written by this pipeline (it has no attribute `{ATTRIBUTE}`); give the output of the stage before")
        text = bytes(file.attrs[ATTRIBUTE]).rstrip(b"\x00")
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: damaged, its attribute `{ATTRIBUTE}` cannot be read ({error}); delete it and make it again") from error


def layout_key(shapes: Mapping[str, tuple[tuple[int, ...], Any]], attributes: Mapping[str, Any]) -> str:
    """Hex SHA-256 of shapes, types and attributes."""
    layout = {name: [list(shape), np.dtype(dtype).str] for name, (shape, dtype) in shapes.items()}
    return hashlib.sha256(as_json({"layout": layout, "attributes": dict(attributes)}).encode()).hexdigest()


def as_json(attributes: Mapping[str, Any]) -> str:
    """The one text of equal attributes."""
    return json.dumps(attributes, sort_keys=True)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: not an HDF5 file, truncated or damaged ({error}); delete it and start again") from error
