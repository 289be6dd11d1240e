"""Rows of arrays, read from open files by `preadv` straight into the returned array.

Compared with a memory map, this costs one system call per row instead of a page fault per 64 KiB,
and the pages read do not count as memory of this process. A few threads read the rows of a batch,
so that a disk has several requests at once (`preadv` releases Python's lock).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vrpo.data.layout import Entry
from vrpo.errors import UserError

THREADS = 4
WORTH_THREADS = 1 << 20  # bytes


class Piece(NamedTuple):
    """Neighbouring rows of a file that are neighbours in the batch, too."""

    file: int  # index
    offset: int  # in the file
    start: int  # in the batch's bytes
    stop: int


def read_rows(
    files: Sequence[int],
    entries: Sequence[Entry],
    indices: np.ndarray | slice,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of one array that consecutive files hold.

    Args:
        files: descriptors, in the order of the rows.
        entries: place of the array in each file; types and row shapes are equal.
        indices: int64 `[B]`, or a slice of step 1.
        out: C-contiguous `[B, ...]` of the stored type to read into; None: a new array.

    Returns:
        A copy of the rows `[B, ...]`.

    Raises:
        IndexError: an index is negative or too large.
        UserError: a file was cut while it was open.
    """
    indices = _checked(indices, sum(entry.shape[0] for entry in entries))
    out = _target(out, (len(indices), *entries[0].shape[1:]), entries[0].dtype)
    if not out.nbytes:
        return out
    pieces = _pieces(entries, indices)
    buffer = memoryview(out.reshape(-1).view(np.uint8))

    def read(part: list[Piece]) -> None:
        for piece in part:
            read_at(files[piece.file], buffer[piece.start : piece.stop], piece.offset)

    if len(pieces) < 2 * THREADS or len(buffer) < WORTH_THREADS:
        read(pieces)
    else:
        list(_pool(os.getpid()).map(read, [pieces[thread::THREADS] for thread in range(THREADS)]))
    return out


def _checked(indices: np.ndarray | slice, total: int) -> np.ndarray:
    if isinstance(indices, slice):
        start, stop, step = indices.indices(total)
        if step != 1:
            raise ValueError(f"rows are read by index or by a slice of step 1, not {indices}")
        indices = np.arange(start, stop)
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 1 or (len(indices) and not 0 <= indices.min() <= indices.max() < total):
        raise IndexError(
            f"indices [B] from 0 to {total - 1} are wanted, "
            f"got shape {indices.shape} with values {indices[:3]}..."
        )
    return indices


def _pieces(entries: Sequence[Entry], indices: np.ndarray) -> list[Piece]:
    counts = np.array([entry.shape[0] for entry in entries])
    ends = np.cumsum(counts)
    row_bytes = entries[0].row_bytes
    files = np.searchsorted(ends, indices, side="right")
    rows = indices - (ends - counts)[files]
    offsets = np.array([entry.offset for entry in entries])[files] + rows * row_bytes
    apart = np.flatnonzero((np.diff(offsets) != row_bytes) | (np.diff(files) != 0)) + 1
    bounds = np.concatenate([[0], apart, [len(indices)]])
    firsts, stops = bounds[:-1], bounds[1:] * row_bytes
    columns = files[firsts], offsets[firsts], firsts * row_bytes, stops
    return [Piece(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def read_at(file: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` with the bytes from `offset`.

    Raises:
        UserError: the file ends before (it was cut while it was open).
    """
    while buffer:
        length = os.preadv(file, [buffer[: 1 << 30]], offset)
        if not length:
            raise UserError(f"{_name_of(file)}: was truncated while it was read; rebuild it")
        buffer, offset = buffer[length:], offset + length


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked child, which has none of them, makes its own."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix=f"rows-{process}")


def _target(out: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if out is None:
        return np.empty(shape, dtype=dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(
            f"`out` must be C-contiguous {dtype} {list(shape)}, it is {out.dtype} {list(out.shape)}"
        )
    return out


def _name_of(file: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{file}").readlink())
    except OSError:
        return "a data file"
