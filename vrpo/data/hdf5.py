"""HDF5 files with room for arrays: created before their rows are written, sealed afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vrpo.data.checksums import seal_of
from vrpo.data.layout import ATTRIBUTE, CHECKSUMS, SEAL, as_json, read_layout
from vrpo.errors import UserError

ATTRIBUTE_SPARE = 1024  # bytes for attributes known only at the end; HDF5 allows 64 KiB in all
ALIGNMENT = 4096  # bytes; each dataset starts on a page

# `earliest` object headers have no checksums and no times: equal content gives equal bytes, and
# an attribute is replaced in place
_FILE_OPTIONS: dict[str, Any] = {
    "libver": ("earliest", "v108"),
    "alignment_threshold": 1,
    "alignment_interval": ALIGNMENT,
    "locking": False,
}

Shapes = Mapping[str, tuple[tuple[int, ...], Any]]
"""Shape (first axis: rows) and dtype of each array."""


def create_file(path: Path, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
    """Create a file with room for the arrays and their checksums; it is sparse until written to."""
    length = -(-(len(as_json(attributes).encode()) + ATTRIBUTE_SPARE) // 512) * 512
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    with h5py.File(path, "w", **_FILE_OPTIONS) as file:
        file.attrs.create(ATTRIBUTE, _encoded(attributes, length), dtype=f"S{length}")
        for name, (shape, dtype) in with_checksums(shapes).items():
            kind = h5py.h5t.py_create(dtype, logical=True)
            space = h5py.h5s.create_simple(shape)
            h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=plist)


def seal_file(path: Path, attributes: Mapping[str, Any], checksums: np.ndarray) -> None:
    """Set the final attributes of a file of `create_file`, with the seal over them and `checksums`.

    Raises:
        UserError: HDF5's own part of the file was damaged meanwhile.
    """
    final = {**attributes, SEAL: seal_of(read_layout(path), attributes, checksums)}
    try:
        with h5py.File(path, "r+", **_FILE_OPTIONS) as file:
            attribute = file.attrs.get_id(ATTRIBUTE)
            attribute.write(_encoded(final, attribute.dtype.itemsize))
    except (KeyError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: was damaged while it was written ({reason}); delete it and start again"
        ) from error


def with_checksums(shapes: Shapes) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """`shapes`, and that of the rows' checksums."""
    count = next(iter(shapes.values()))[0][0]
    arrays = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}
    return {**arrays, CHECKSUMS: ((count,), np.dtype(np.uint32))}


def row_count(shapes: Shapes) -> int:
    """Number of rows of the arrays, the same for all of them."""
    counts = {shape[0] for shape, _ in shapes.values()}
    if len(counts) != 1 or min(counts) < 1:
        raise ValueError(
            f"arrays of one file have equally many rows, at least one; got {sorted(counts)}"
        )
    return counts.pop()


def _encoded(attributes: Mapping[str, Any], length: int) -> np.ndarray:
    text = as_json(attributes).encode()
    if len(text) > length:
        raise ValueError(f"the final attributes need {len(text)} bytes, {length} are reserved")
    return np.array(text, dtype=f"S{length}")
