"""Arrays in HDF5 files that any tool opens, and that are written and read as raw bytes.

Datasets are contiguous, unfiltered and preallocated, so each has one offset in the file. Rows are
written there as they come, and read by `preadv` or a memory map: many times faster than h5py on
random rows, and without its global lock. All attributes are one JSON object in the root attribute
`vrpo`, of fixed length, so that it can be set at the end. Each row has a checksum
(vrpo/data/checksums.py).
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vrpo.data.checksums import remember, row_checksums
from vrpo.data.hdf5 import Shapes, create_file, row_count, seal_file, with_checksums
from vrpo.data.layout import (
    CHECKSUMS,
    SEAL,
    Attributes,
    Entry,
    layout_key,
    read_attributes,
    read_layout,
    shapes_of,
)
from vrpo.data.reading import read_rows
from vrpo.errors import UserError
from vrpo.files import (
    FileLock,
    LockedError,
    clear_os_errors,
    commit,
    partial_path,
    require_free_space,
)


class ArrayWriter:
    """Writes arrays row by row under a temporary name; resumes at the last durable row if killed.

    The rows of all arrays advance together. A small file beside the partial one notes how many are
    durable, with a hash of shapes and attributes: a partial file of other ones is thrown away. The
    finished file is the same, byte for byte, however often it was interrupted.

    Args:
        path: final name.
        shapes: shape (first axis: rows) and dtype of each array.
        attributes: JSON-able; must agree for a partial file to be resumed.

    Raises:
        UserError: the disk is too small or not writable, or another process writes the same file.
    """

    def __init__(self, path: Path | str, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.shapes = {
            name: (tuple(map(int, shape)), np.dtype(dtype))
            for name, (shape, dtype) in shapes.items()
        }
        self.attributes = dict(attributes)
        self.count = row_count(self.shapes)
        self.done = 0
        self._partial, self._progress = _unfinished(self.path)
        self._key = layout_key(self.shapes, self.attributes)
        self._file: int | None = None
        self._lock: FileLock | None = None
        self._layout: dict[str, Entry] = {}
        self._written = 0
        self._synced, self._sync_cost = 0.0, 0.0

    def __enter__(self) -> ArrayWriter:
        with clear_os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._partial.exists():
                self._open()
            self.done = self._written = self._durable_rows()
            if not self._progress.exists():
                self._create()
            self._layout = read_layout(self._partial)
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    @staticmethod
    def discard(path: Path | str) -> None:
        """Delete the files of an unfinished writing of `path`."""
        for file in _unfinished(Path(path)):
            file.unlink(missing_ok=True)

    def batches(self, size: int) -> Iterator[slice]:
        """Slices of `size` rows (at multiples of it) that are still to be written, in order."""
        if self.done < self.count:
            self._written = self.done // size * size
        for start in range(self._written, self.count, size):
            yield slice(start, min(start + size, self.count))

    def write(self, start: int, rows: Mapping[str, np.ndarray]) -> None:
        """Write rows `start`, ... of every array; `start` is the first row not yet written."""
        lengths = {len(values) for values in rows.values()}
        if start != self._written or rows.keys() != self.shapes.keys() or len(lengths) != 1:
            raise ValueError(
                f"rows {self._written}... of {sorted(self.shapes)} are due, all equally many; "
                f"got {start}... of {sorted(rows)}, {sorted(lengths)} rows"
            )
        converted: dict[str, np.ndarray] = {}
        with clear_os_errors(self.path):
            for name, values in rows.items():
                shape, dtype = self.shapes[name]
                converted[name] = np.ascontiguousarray(values, dtype=dtype)
                if converted[name].shape[1:] != shape[1:] or start + len(values) > self.count:
                    raise ValueError(f"{name}: rows {values.shape} from {start} do not fit {shape}")
            for name, values in {**converted, CHECKSUMS: row_checksums(converted)}.items():
                entry = self._layout[name]
                _write_at(self._file, values, entry.offset + start * entry.row_bytes)
            self._written += lengths.pop()
            is_due = time.monotonic() - self._synced > min(10 * self._sync_cost, 5.0)
            if self._written == self.count or is_due:
                self._make_durable()

    def read(self, name: str) -> np.ndarray:
        """An array as written so far, mapped from the partial file."""
        return _mapped(self._partial, self._layout[name])

    def finish(self, attributes: Mapping[str, Any] | None = None) -> None:
        """Update the attributes with `attributes`, seal the file and rename it to its name."""
        if self._written != self.count:
            missing = self.count - self._written
            raise ValueError(f"{self.path}: {missing} of {self.count} rows are missing")
        final = {**self.attributes, **(attributes or {})}
        with clear_os_errors(self.path):
            self._make_durable()
            self._close()
            seal_file(self._partial, final, self.read(CHECKSUMS))
            commit(self.path)
            remember(self.path)
            self._progress.unlink(missing_ok=True)

    def _durable_rows(self) -> int:
        """Rows of a partial file to resume from; 0 if it is damaged or made for something else."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, UserError):
            progress = json.loads(self._progress.read_text(encoding="utf-8"))
            is_same = (
                self._file is not None
                and progress["key"] == self._key
                and shapes_of(read_layout(self._partial)) == with_checksums(self.shapes)
            )
            if is_same and 0 <= progress["done"] <= self.count:
                return int(progress["done"])
        self._progress.unlink(missing_ok=True)
        return 0

    def _create(self) -> None:
        self._close()
        self._partial.unlink(missing_ok=True)
        sizes = with_checksums(self.shapes).values()
        n_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in sizes)
        require_free_space(self.path.parent, n_bytes, self.path.name)
        create_file(self._partial, self.shapes, self.attributes)
        self._open()
        try:
            os.posix_fallocate(self._file, 0, os.fstat(self._file).st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        self._make_durable()

    def _open(self) -> None:
        try:
            self._lock = FileLock(self._partial)
        except LockedError as error:
            holder = f" ({error.holder})" if error.holder else ""
            raise UserError(
                f"{self.path}: another process is writing it{holder}; {error.remedy}"
            ) from None
        self._file = os.open(self._partial, os.O_RDWR)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _make_durable(self) -> None:
        start = time.monotonic()
        os.fsync(self._file)
        beside = self._progress.with_name(f"{self._progress.name}.new")
        beside.write_text(json.dumps({"key": self._key, "done": self._written}), encoding="utf-8")
        beside.replace(self._progress)
        self.done = self._written
        self._synced = time.monotonic()
        self._sync_cost = self._synced - start


class Arrays:
    """Arrays of an HDF5 file, opened when first used and again in each process.

    `arrays.rows("tokens", indices)` reads rows, `arrays["tokens"]` is a read-only memory map
    `[N, ...]`, and `arrays.attributes` is the decoded JSON.

    Raises:
        UserError: the file is missing, truncated, or not one that `ArrayWriter` wrote.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._layout = read_layout(self.path)
        self._layout.pop(CHECKSUMS, None)
        self.attributes: dict[str, Any] = Attributes(self.path, read_attributes(self.path))
        self.attributes.pop(SEAL, None)
        self._maps: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._maps:
            self._maps[name] = _mapped(self.path, self.entry(name))
        return self._maps[name]

    def __contains__(self, name: str) -> bool:
        return name in self._layout

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key != "_file"}
        return {**state, "_maps": {}}

    def keys(self) -> list[str]:
        """Names of the arrays."""
        return list(self._layout)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, without mapping it."""
        return self.entry(name).shape

    def dtype(self, name: str) -> np.dtype:
        """Type of an array's elements."""
        return self.entry(name).dtype

    def rows(
        self, name: str, indices: np.ndarray | slice, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Copy of the rows `indices` (int64 `[B]`, or a slice of step 1), `[B, ...]` as stored.

        It is written into `out` where given.
        """
        return read_rows([self.handle()], [self.entry(name)], indices, out)

    def handle(self) -> int:
        """File descriptor for `pread`."""
        file = self.__dict__.get("_file")
        if file is None:
            opened = io.FileIO(self.path)
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            file = self.__dict__.setdefault("_file", opened)  # all threads use the first one's
        return file.fileno()

    def entry(self, name: str) -> Entry:
        """Place of an array in the file.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self._layout:
            raise UserError(
                f"{self.path}: holds no array `{name}`, only {', '.join(self._layout)}; "
                "it is the output of another stage"
            )
        return self._layout[name]

    @property
    def fingerprint(self) -> str:
        """Hash of shapes and attributes, which say how the arrays were made; not of the rows."""
        return layout_key(shapes_of(self._layout), self.attributes)


def _unfinished(path: Path) -> tuple[Path, Path]:
    """The partial file, and the note of how many of its rows are durable."""
    return partial_path(path), path.with_name(f".{path.name}.progress")


def _mapped(path: Path, entry: Entry) -> np.ndarray:
    return np.memmap(path, entry.dtype, "r", entry.offset, entry.shape)


def _write_at(file: int, values: np.ndarray, offset: int) -> None:
    rest = memoryview(values.reshape(-1).view(np.uint8))
    while rest:
        written = os.pwrite(file, rest[: 1 << 30], offset)
        rest, offset = rest[written:], offset + written
