"""Arrays in HDF5 files that any tool opens, and that are written and read as raw bytes.

Datasets are contiguous, unfiltered and preallocated, so each has one offset in the file: rows are written there as they
come, and read by `preadv` or a memory map (many times faster than h5py on random rows, and free of its global lock).
All attributes are one JSON object in the root attribute `vrpo`, of a fixed length, so that its value can be set at the end.
Each row has a checksum (vrpo/data/checksums.py).
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
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from vrpo.data.checksums import remember, row_checksums, seal_of
from vrpo.data.layout import (
    ATTRIBUTE,
    CHECKSUMS,
    SEAL,
    Attributes,
    Entry,
    as_json,
    layout_key,
    read_attributes,
    read_layout,
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

ATTRIBUTE_SPARE = (
    1024  # bytes kept free for what is known only at the end; HDF5's limit for the whole is 64 KiB
)
ALIGNMENT = 4096  # bytes; each dataset starts on a page

# `earliest` object headers carry no checksums and no times: equal content is equal bytes, and an attribute is replaced in place
_FILE_OPTIONS: dict[str, Any] = {
    "libver": ("earliest", "v108"),
    "alignment_threshold": 1,
    "alignment_interval": ALIGNMENT,
    "locking": False,
}

Shapes = Mapping[str, tuple[tuple[int, ...], Any]]


class ArrayWriter:
    """Write arrays row by row under a temporary name; killed at any point and started again, it goes on after the last durable row.

    The rows of all arrays advance together. How far they are is noted in a small file beside the partial one, with a hash of shapes and
    attributes: a partial file of other shapes or attributes is thrown away. The finished file is the same, byte for byte, however often it was interrupted.

    Args:
        path: final name.
        shapes: shape (first axis: rows) and dtype of each array.
        attributes: JSON-able; part of what must agree for a partial file to be continued.

    Raises:
        UserError: the disk is too small or not writable, or another process is writing the same file.
    """

    def __init__(self, path: Path | str, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.shapes = {
            name: (tuple(int(side) for side in shape), np.dtype(dtype))
            for name, (shape, dtype) in shapes.items()
        }
        self.attributes = dict(attributes)
        self.count = _row_count(self.shapes)
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    @staticmethod
    def discard(path: Path | str) -> None:
        """Throw away what an unfinished writing of `path` left."""
        for file in _unfinished(Path(path)):
            file.unlink(missing_ok=True)

    def batches(self, size: int) -> Iterator[slice]:
        """Slices of at most `size` rows that are still to be written, in order, on the same boundaries (multiples of `size`) in every try."""
        if self.done < self.count:
            self._written = self.done // size * size
        for start in range(self._written, self.count, size):
            yield slice(start, min(start + size, self.count))

    def write(self, start: int, rows: Mapping[str, np.ndarray]) -> None:
        """Write rows `start`, `start + 1`, ... of every array; `start` must be the first row not yet written."""
        lengths = {len(values) for values in rows.values()}
        if start != self._written or rows.keys() != self.shapes.keys() or len(lengths) != 1:
            raise ValueError(
                f"rows {self._written}... of {sorted(self.shapes)} are due, all equally many; got {start}... of {sorted(rows)}, {sorted(lengths)} rows"
            )
        with clear_os_errors(self.path):
            converted = {
                name: np.ascontiguousarray(values, dtype=self.shapes[name][1])
                for name, values in rows.items()
            }
            for name, values in converted.items():
                shape = self.shapes[name][0]
                if values.shape[1:] != shape[1:] or start + len(values) > self.count:
                    raise ValueError(f"{name}: rows {values.shape} from {start} do not fit {shape}")
            for name, values in {**converted, CHECKSUMS: row_checksums(converted)}.items():
                _write_at(
                    self._file,
                    values,
                    self._layout[name].offset + start * self._layout[name].row_bytes,
                )
            self._written += lengths.pop()
            if self._written == self.count or time.monotonic() - self._synced > min(
                10 * self._sync_cost, 5.0
            ):
                self._make_durable()

    def read(self, name: str) -> np.ndarray:
        """An array as written so far, mapped from the partial file."""
        entry = self._layout[name]
        return np.memmap(
            self._partial, dtype=entry.dtype, mode="r", offset=entry.offset, shape=entry.shape
        )

    def finish(self, attributes: Mapping[str, Any] | None = None) -> None:
        """Set the final attributes (those given at the start, updated with `attributes`) and the seal, and rename the file to its name."""
        if self._written != self.count:
            raise ValueError(
                f"{self.path}: {self.count - self._written} of {self.count} rows are missing"
            )
        with clear_os_errors(self.path):
            self._make_durable()
            self._close()
            seal_file(
                self._partial, {**self.attributes, **(attributes or {})}, self.read(CHECKSUMS)
            )
            commit(self.path)
            remember(self.path)
            self._progress.unlink(missing_ok=True)

    def _durable_rows(self) -> int:
        """How many rows of a partial file can be continued; of one that is damaged or was made for something else none, and its note is removed."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, UserError):
            progress = json.loads(self._progress.read_text(encoding="utf-8"))
            layout = {
                name: (entry.shape, entry.dtype)
                for name, entry in read_layout(self._partial).items()
            }
            if (
                self._file is not None
                and progress["key"] == self._key
                and layout == _with_checksums(self.shapes)
                and 0 <= progress["done"] <= self.count
            ):
                return int(progress["done"])
        self._progress.unlink(missing_ok=True)
        return 0

    def _create(self) -> None:
        self._close()
        self._partial.unlink(missing_ok=True)
        require_free_space(
            self.path.parent,
            sum(
                math.prod(shape) * dtype.itemsize
                for shape, dtype in _with_checksums(self.shapes).values()
            ),
            self.path.name,
        )
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
            raise UserError(
                f"{self.path}: another process is writing it{error.holder and f' ({error.holder})'}; {error.remedy}"
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


def create_file(path: Path, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
    """Create an HDF5 file with room for the arrays and their checksums. It is sparse: its rows take no disk until they are written."""
    length = -(-(len(as_json(attributes).encode()) + ATTRIBUTE_SPARE) // 512) * 512
    with h5py.File(path, "w", **_FILE_OPTIONS) as file:
        file.attrs.create(ATTRIBUTE, _encoded(attributes, length), dtype=f"S{length}")
        for name, (shape, dtype) in _with_checksums(shapes).items():
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_layout(h5py.h5d.CONTIGUOUS)
            plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            plist.set_obj_track_times(False)
            h5py.h5d.create(
                file.id,
                name.encode(),
                h5py.h5t.py_create(dtype, logical=True),
                h5py.h5s.create_simple(shape),
                dcpl=plist,
            )


def seal_file(path: Path, attributes: Mapping[str, Any], checksums: np.ndarray) -> None:
    """Set the final attributes of a file of `create_file`, whose rows have these checksums, with the seal over all.

    Raises:
        UserError: what HDF5 holds beside the rows was damaged since.
    """
    final = {**attributes, SEAL: seal_of(read_layout(path), attributes, checksums)}
    try:
        with h5py.File(path, "r+", **_FILE_OPTIONS) as file:
            attribute = file.attrs.get_id(ATTRIBUTE)
            encoded = _encoded(final, attribute.dtype.itemsize)
            attribute.write(encoded)
    except (KeyError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{path}: was damaged while it was written ({' '.join(str(error).split())}); delete it and start again"
        ) from error


class Arrays:
    """Arrays of an HDF5 file, opened when first used and anew in each process.

    `arrays.rows("tokens", indices)` reads rows; `arrays["tokens"]` is a read-only memory map `[N, ...]`; `arrays.attributes` is the decoded JSON.

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
            entry = self.entry(name)
            self._maps[name] = np.memmap(
                self.path, dtype=entry.dtype, mode="r", offset=entry.offset, shape=entry.shape
            )
        return self._maps[name]

    def __contains__(self, name: str) -> bool:
        return name in self._layout

    def __getstate__(self) -> dict[str, Any]:
        return {
            **{key: value for key, value in self.__dict__.items() if key != "_file"},
            "_maps": {},
        }

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
        """A copy of the rows `indices` (int64 `[B]`, or a slice of step 1) of an array, `[B, ...]` as stored; into `out` where given."""
        entry = self.entry(name)
        return read_rows([self.handle()], [entry], indices, out)

    def handle(self) -> int:
        """File descriptor for `pread`."""
        file = self.__dict__.get("_file")
        if file is None:
            opened = io.FileIO(self.path)
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            file = self.__dict__.setdefault(
                "_file", opened
            )  # of several threads, all use the first one's
        return file.fileno()

    def entry(self, name: str) -> Entry:
        """Where an array lies.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self._layout:
            raise UserError(
                f"{self.path}: holds no array `{name}`, only {', '.join(self._layout)}; it is the output of another stage"
            )
        return self._layout[name]

    @property
    def fingerprint(self) -> str:
        """Hash of the shapes and attributes, which say by what and from what the arrays were made; not of the rows."""
        return layout_key(
            {name: (entry.shape, entry.dtype) for name, entry in self._layout.items()},
            self.attributes,
        )


def _unfinished(path: Path) -> tuple[Path, Path]:
    """The partial file, and the note of how far it is."""
    return partial_path(path), path.with_name(f".{path.name}.progress")


def _with_checksums(shapes: Shapes) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    count = next(iter(shapes.values()))[0][0]
    return {
        **{name: (shape, np.dtype(dtype)) for name, (shape, dtype) in shapes.items()},
        CHECKSUMS: ((count,), np.dtype(np.uint32)),
    }


def _row_count(shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> int:
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


def _write_at(file: int, values: np.ndarray, offset: int) -> None:
    rest = memoryview(values.reshape(-1).view(np.uint8))
    while rest:
        written = os.pwrite(file, rest[: 1 << 30], offset)
        rest, offset = rest[written:], offset + written
