"""Rows of arrays, read from open files by `preadv`, straight into the array that is returned.

Against a memory map this costs one system call a row instead of a page fault for each 64 KiB, and the pages read do not count as this process's memory.
Rows of a batch are read by a few threads, so that a disk has several requests at once (`preadv` releases Python's lock).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vrpo.data.layout import Entry
from vrpo.errors import UserError

THREADS = 4
WORTH_THREADS = 1 << 20  # bytes


def read_rows(
    files: Sequence[int],
    entries: Sequence[Entry],
    indices: np.ndarray | slice,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of one array that lies in several files, one after the other.

    Args:
        files: descriptors, in the order of the rows.
        entries: where the array lies in each; types and row shapes are equal.
        indices: int64 `[B]`, or a slice of step 1.
        out: C-contiguous `[B, ...]` of the stored type to read into; None: a new array.

    Returns:
        The rows `[B, ...]`, a copy.

    Raises:
        IndexError: an index is negative or too large.
        UserError: a file was cut while it was open.
    """
    counts = np.array([entry.shape[0] for entry in entries])
    ends = np.cumsum(counts)
    total, row_shape, row_bytes = int(ends[-1]), entries[0].shape[1:], entries[0].row_bytes
    if isinstance(indices, slice):
        start, stop, step = indices.indices(total)
        if step != 1:
            raise ValueError(f"rows are read by index or by a slice of step 1, not {indices}")
        indices = np.arange(start, stop)
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 1 or (len(indices) and not 0 <= indices.min() <= indices.max() < total):
        raise IndexError(
            f"indices [B] from 0 to {total - 1} are wanted, got shape {indices.shape} with values {indices[:3]}..."
        )
    out = _target(out, (len(indices), *row_shape), entries[0].dtype)
    if not out.nbytes:
        return out
    shards = np.searchsorted(ends, indices, side="right")
    offsets = (
        np.array([entry.offset for entry in entries])[shards]
        + (indices - (ends - counts)[shards]) * row_bytes
    )
    # neighbours in a file that are neighbours in the batch are read at once
    apart = np.flatnonzero((np.diff(offsets) != row_bytes) | (np.diff(shards) != 0)) + 1
    bounds = np.concatenate([[0], apart, [len(indices)]])
    starts, stops = bounds[:-1], bounds[1:] * row_bytes
    pieces = list(
        zip(
            shards[starts].tolist(),
            offsets[starts].tolist(),
            (starts * row_bytes).tolist(),
            stops.tolist(),
            strict=True,
        )
    )
    buffer = memoryview(out.reshape(-1).view(np.uint8))

    def read(part: list[tuple[int, int, int, int]]) -> None:
        for shard, offset, start, stop in part:
            read_at(files[shard], buffer[start:stop], offset)

    if len(pieces) < 2 * THREADS or len(buffer) < WORTH_THREADS:
        read(pieces)
    else:
        list(_pool(os.getpid()).map(read, [pieces[thread::THREADS] for thread in range(THREADS)]))
    return out


def read_at(file: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` with the bytes from `offset`.

    Raises:
        UserError: the file ends before (it was cut while it was open).
    """
    while buffer:
        length = os.preadv(file, [buffer[: 1 << 30]], offset)
        if not length:
            raise UserError(f"{_name_of(file)}: was truncated while it was read; make it again")
        buffer, offset = buffer[length:], offset + length


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process; after a fork there are none, and the child makes its own."""
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
