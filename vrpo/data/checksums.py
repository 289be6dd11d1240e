"""Checksums of the rows of a file: computed while writing, checked once before the file is first used, and remembered.

Each row has a CRC-32 over the bytes of all its arrays (in the order of their names), in the array `crc32`. It needs no state beyond the row, so it survives
a resumed writing, and a damaged row is known by its number. The attribute `seal` is a SHA-256 over those, the shapes and all attributes.
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
)
from vrpo.data.reading import read_at
from vrpo.errors import UserError

BLOCK = 1 << 24  # bytes read at once by each thread
THREADS = 8


def row_checksums(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """CRC-32 uint32 `[n]` of each of n rows `{name: [n, ...]}` (C-contiguous) over its arrays in the order of their names."""
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
    digest = hashlib.sha256(
        layout_key(
            {name: (entry.shape, entry.dtype) for name, entry in layout.items()}, {}
        ).encode()
    )
    digest.update(
        as_json({key: value for key, value in attributes.items() if key != SEAL}).encode()
    )
    digest.update(memoryview(np.ascontiguousarray(checksums)))
    return digest.hexdigest()


def stamp_path(path: Path) -> Path:
    """Where it is remembered that `path` was found whole: hidden, beside it, and worth nothing once the file has changed."""
    return path.with_name(f".{path.name}.verified")


def remember(path: Path, identity: list[int] | None = None) -> None:
    """Note that `path` is whole (as it lies there now, or as `identity` says it lay). On a disk that cannot be written the note is left out."""
    beside = stamp_path(path).with_name(f"{stamp_path(path).name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(identity or _identity(path)), encoding="utf-8")
        beside.replace(stamp_path(path))
    except OSError:
        beside.unlink(missing_ok=True)


def is_remembered(path: Path) -> bool:
    """Whether `path` was found whole and has not been touched since: same size, inode and times of change."""
    try:
        return json.loads(stamp_path(path).read_text(encoding="utf-8")) == _identity(path)
    except (OSError, ValueError):
        return False


def verify(path: Path) -> None:
    """Check all rows and attributes of a file against its checksums, unless that was done before and the file is unchanged since.

    Raises:
        UserError: it was changed after it was written; names the first damaged row.
    """
    if is_remembered(path):
        return
    with open(path, "rb", buffering=0) as file:
        with contextlib.suppress(OSError):  # some network disks have no locks
            fcntl.flock(
                file, fcntl.LOCK_EX
            )  # of several that start at once, one checks and the others wait
        if not is_remembered(path):
            _verify(path)


def _verify(path: Path) -> None:
    identity = _identity(path)
    layout, attributes = read_layout(path), read_attributes(path)
    if CHECKSUMS not in layout or SEAL not in attributes:
        raise UserError(
            f"{path}: has no checksums, it was written by an older version or was never finished; delete it and make it again"
        )
    with open(path, "rb", buffering=0) as file:
        checksums = _block(file.fileno(), layout[CHECKSUMS], 0, layout[CHECKSUMS].shape[0])
        if seal_of(layout, attributes, checksums) != attributes[SEAL]:
            raise UserError(
                f"{path}: damaged, its attributes or checksums are not those it was sealed with; delete it and make it again"
            )
        arrays = {name: entry for name, entry in layout.items() if name != CHECKSUMS}
        rows = max(1, BLOCK // max(1, sum(entry.row_bytes for entry in arrays.values())))

        def first_damaged(start: int) -> int | None:
            stop = min(start + rows, len(checksums))
            found = row_checksums(
                {name: _block(file.fileno(), entry, start, stop) for name, entry in arrays.items()}
            )
            wrong = np.flatnonzero(found != checksums[start:stop])
            return start + int(wrong[0]) if len(wrong) else None

        starts = range(0, len(checksums), rows)
        with (
            ThreadPoolExecutor(min(THREADS, len(starts), os.cpu_count() or 1)) as pool,
            tqdm(
                total=len(starts),
                desc=f"checking {path.name}",
                unit="block",
                disable=len(starts) < THREADS,
            ) as progress,
        ):
            for group in _batched(starts, THREADS):
                for damaged in pool.map(first_damaged, group):
                    if damaged is not None:
                        raise UserError(
                            f"{path}: row {damaged:,} is damaged (its checksum differs); delete the file and make it again"
                        )
                    progress.update()
    remember(path, identity)


def _batched(starts: range, size: int) -> list[range]:
    return [starts[first : first + size] for first in range(0, len(starts), size)]


def _block(file: int, entry: Entry, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of an array, read from an open file."""
    block = np.empty((stop - start, *entry.shape[1:]), dtype=entry.dtype)
    read_at(
        file, memoryview(block.reshape(-1).view(np.uint8)), entry.offset + start * entry.row_bytes
    )
    return block


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
