"""Checksums of the rows of a file: written with it, and checked once before its first use.

Each row has a CRC-32 over the bytes of all its arrays (in the order of their names), in the array
`crc32`. It needs no state beyond the row, so a resumed writing keeps it, and a damaged row is
known by its number. The attribute `seal` is a SHA-256 over the checksums, shapes and attributes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vrpo.data.layout import (
    CHECKSUMS,
    SEAL,
    Entry,
    as_json,
    layout_key,
    read_attributes,
    read_layout,
    shapes_of,
)
from vrpo.data.reading import read_at
from vrpo.errors import UserError

BLOCK = 1 << 24  # bytes read at once by each thread
THREADS = 8


def row_checksums(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """CRC-32 uint32 `[n]` of each row of C-contiguous arrays `{name: [n, ...]}`, sorted by name."""
    views = [values.reshape(len(values), -1).view(np.uint8) for _, values in sorted(rows.items())]
    checksums = np.empty(len(views[0]), dtype=np.uint32)
    for index in range(len(checksums)):
        value = 0
        for view in views:
            value = zlib.crc32(view[index], value)
        checksums[index] = value
    return checksums


def seal_of(
    layout: Mapping[str, Entry], attributes: Mapping[str, Any], checksums: np.ndarray
) -> str:
    """Hex SHA-256 of shapes, attributes (without the seal) and the rows' checksums."""
    sealed = {key: value for key, value in attributes.items() if key != SEAL}
    digest = hashlib.sha256(layout_key(shapes_of(layout), {}).encode())
    digest.update(as_json(sealed).encode())
    digest.update(memoryview(np.ascontiguousarray(checksums)))
    return digest.hexdigest()


def stamp_path(path: Path) -> Path:
    """Hidden file beside `path` that records a passed check; void once `path` changes."""
    return path.with_name(f".{path.name}.verified")


def remember(path: Path, identity: list[int] | None = None) -> None:
    """Record that `path` is whole, as it is now or as it was with `identity`.

    On a read-only disk the record is left out.
    """
    beside = stamp_path(path).with_name(f"{stamp_path(path).name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(identity or _identity(path)), encoding="utf-8")
        beside.replace(stamp_path(path))
    except OSError:
        beside.unlink(missing_ok=True)


def is_remembered(path: Path) -> bool:
    """Whether `path` passed a check and has kept its size, inode and times of change."""
    try:
        return json.loads(stamp_path(path).read_text(encoding="utf-8")) == _identity(path)
    except (OSError, ValueError):
        return False


def verify(path: Path) -> None:
    """Check all rows and attributes of a file against its checksums, unless a record says so.

    Raises:
        UserError: it was changed after it was written; names the first damaged row.
    """
    if is_remembered(path):
        return
    with open(path, "rb", buffering=0) as file:
        # of several processes, one checks and the others wait; some network disks have no locks
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if not is_remembered(path):
            _verify(path)


def _verify(path: Path) -> None:
    identity = _identity(path)
    layout, attributes = read_layout(path), read_attributes(path)
    if CHECKSUMS not in layout or SEAL not in attributes:
        raise UserError(
            f"{path}: has no checksums, it was written by an older version or was never finished; "
            "delete it and rebuild it"
        )
    with open(path, "rb", buffering=0) as file:
        checksums = _block(file.fileno(), layout[CHECKSUMS], 0, layout[CHECKSUMS].shape[0])
        if seal_of(layout, attributes, checksums) != attributes[SEAL]:
            raise UserError(
                f"{path}: damaged, its attributes or checksums are not those it was sealed with; "
                "delete it and rebuild it"
            )
        arrays = {name: entry for name, entry in layout.items() if name != CHECKSUMS}
        damaged = _first_damaged(path.name, file.fileno(), arrays, checksums)
        if damaged is not None:
            raise UserError(
                f"{path}: row {damaged:,} is damaged (its checksum differs); "
                "delete the file and rebuild it"
            )
    remember(path, identity)


def _first_damaged(
    name: str, file: int, arrays: Mapping[str, Entry], checksums: np.ndarray
) -> int | None:
    """The first row of an open file that differs from its checksum, if one does."""
    rows = max(1, BLOCK // max(1, sum(entry.row_bytes for entry in arrays.values())))
    starts = range(0, len(checksums), rows)

    def damaged_in(start: int) -> int | None:
        stop = min(start + rows, len(checksums))
        blocks = {name: _block(file, entry, start, stop) for name, entry in arrays.items()}
        wrong = np.flatnonzero(row_checksums(blocks) != checksums[start:stop])
        return start + int(wrong[0]) if len(wrong) else None

    few = len(starts) < THREADS
    with (
        ThreadPoolExecutor(min(THREADS, len(starts), os.cpu_count() or 1)) as pool,
        tqdm(total=len(starts), desc=f"checking {name}", unit="block", disable=few) as progress,
    ):
        for first in range(0, len(starts), THREADS):  # a few at a time, to stop at the damage
            for damaged in pool.map(damaged_in, starts[first : first + THREADS]):
                if damaged is not None:
                    return damaged
                progress.update()
    return None


def _block(file: int, entry: Entry, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of an array, read from an open file."""
    block = np.empty((stop - start, *entry.shape[1:]), dtype=entry.dtype)
    buffer = memoryview(block.reshape(-1).view(np.uint8))
    read_at(file, buffer, entry.offset + start * entry.row_bytes)
    return block


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
