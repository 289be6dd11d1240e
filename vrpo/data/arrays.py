"""Arrays in HDF5 files that any tool opens, and that are written and read as raw bytes.

Datasets are contiguous, unfiltered and preallocated, so each has one offset in the file: rows are written there as they
come, and read through a memory map (several times faster than h5py on random rows, and free of its global lock).
All attributes are one JSON object in the root attribute `vrpo`, of a fixed length, so that its value can be set at the end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np

from vrpo.errors import UserError
from vrpo.files import clear_os_errors, commit, partial_path, require_free_space

ATTRIBUTE = "vrpo"
ATTRIBUTE_SPARE = 1024  # bytes kept free for what is known only at the end; HDF5's limit for the whole is 64 KiB
ALIGNMENT = 4096  # bytes; each dataset starts on a page

# `earliest` object headers carry no checksums and no times: equal content is equal bytes, and an attribute is replaced in place
_FILE_OPTIONS: dict[str, Any] = {"libver": ("earliest", "v108"), "alignment_threshold": 1, "alignment_interval": ALIGNMENT, "locking": False}

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
        self.shapes = {name: (tuple(int(side) for side in shape), np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}
        self.attributes = dict(attributes)
        self.count = _row_count(self.shapes)
        self.done = 0
        self._partial = partial_path(self.path)
        self._progress = self.path.with_name(f".{self.path.name}.progress")
        self._key = _layout_key(self.shapes, self.attributes)
        self._file: int | None = None
        self._offsets: dict[str, int] = {}
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
            self._offsets = {name: entry.offset for name, entry in _layout(self._partial).items()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

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
            for name, values in rows.items():
                shape, dtype = self.shapes[name]
                values = np.ascontiguousarray(values, dtype=dtype)
                if values.shape[1:] != shape[1:] or start + len(values) > self.count:
                    raise ValueError(f"{name}: rows {values.shape} from {start} do not fit {shape}")
                row_bytes = dtype.itemsize * math.prod(shape[1:])
                _write_at(self._file, values, self._offsets[name] + start * row_bytes)
            self._written += lengths.pop()
            if self._written == self.count or time.monotonic() - self._synced > min(10 * self._sync_cost, 5.0):
                self._make_durable()

    def read(self, name: str) -> np.ndarray:
        """An array as written so far, mapped from the partial file."""
        shape, dtype = self.shapes[name]
        return np.memmap(self._partial, dtype=dtype, mode="r", offset=self._offsets[name], shape=shape)

    def finish(self, attributes: Mapping[str, Any] | None = None) -> None:
        """Set the final attributes (those given at the start, updated with `attributes`) and rename the file to its name."""
        if self._written != self.count:
            raise ValueError(f"{self.path}: {self.count - self._written} of {self.count} rows are missing")
        with clear_os_errors(self.path):
            self._make_durable()
            self._close()
            with h5py.File(self._partial, "r+", **_FILE_OPTIONS) as file:
                length = file.attrs.get_id(ATTRIBUTE).dtype.itemsize
                file.attrs.get_id(ATTRIBUTE).write(_encoded({**self.attributes, **(attributes or {})}, length))
            commit(self.path)
            self._progress.unlink(missing_ok=True)

    def _durable_rows(self) -> int:
        try:
            progress = json.loads(self._progress.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            progress = {}
        if self._file is not None and progress.get("key") == self._key:
            return int(progress["done"])
        self._progress.unlink(missing_ok=True)
        return 0

    def _create(self) -> None:
        n_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.shapes.values())
        self._close()
        self._partial.unlink(missing_ok=True)
        require_free_space(self.path.parent, n_bytes, self.path.name)
        text = _json(self.attributes)
        length = -(-(len(text.encode()) + ATTRIBUTE_SPARE) // 512) * 512
        with h5py.File(self._partial, "w", **_FILE_OPTIONS) as file:
            file.attrs.create(ATTRIBUTE, _encoded(self.attributes, length), dtype=f"S{length}")
            for name, (shape, dtype) in self.shapes.items():
                plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                plist.set_layout(h5py.h5d.CONTIGUOUS)
                plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                plist.set_obj_track_times(False)
                h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape), dcpl=plist)
        self._open()
        try:
            os.posix_fallocate(self._file, 0, os.fstat(self._file).st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        self._make_durable()

    def _open(self) -> None:
        self._file = os.open(self._partial, os.O_RDWR)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{self.path}: another process is writing it; wait for it or end it first") from error

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

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
    """Arrays of an HDF5 file as read-only memory maps, opened when first used and anew in each process.

    `arrays["latents"]` is an array `[N, ...]`; `arrays.attributes` is the decoded JSON.

    Raises:
        UserError: the file is missing, truncated, or not one that `ArrayWriter` wrote.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file; run the stage that makes it (`snakemake {self.path}`)")
        self._layout = _layout(self.path)
        self.attributes: dict[str, Any] = _attributes(self.path)
        self._maps: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._maps:
            entry = self._entry(name)
            self._maps[name] = np.memmap(self.path, dtype=entry.dtype, mode="r", offset=entry.offset, shape=entry.shape)
        return self._maps[name]

    def __contains__(self, name: str) -> bool:
        return name in self._layout

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def keys(self) -> list[str]:
        """Names of the arrays."""
        return list(self._layout)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, without mapping it."""
        return self._entry(name).shape

    def _entry(self, name: str) -> _Entry:
        if name not in self._layout:
            raise UserError(f"{self.path}: holds no array `{name}`, only {', '.join(self._layout)}; it is the output of another stage")
        return self._layout[name]

    @property
    def fingerprint(self) -> str:
        """Hash of the shapes and attributes, which say by what and from what the arrays were made; not of the rows."""
        return _layout_key({name: (entry.shape, entry.dtype) for name, entry in self._layout.items()}, self.attributes)


class _Entry(NamedTuple):
    """Where an array lies in its file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


def _layout(path: Path) -> dict[str, _Entry]:
    with _opened(path) as file:
        layout = {}
        for name in sorted(file):
            dataset = file[name]
            offset = dataset.id.get_offset() if isinstance(dataset, h5py.Dataset) else None
            if offset is None:
                raise UserError(
                    f"{path}: `{name}` is not contiguous and unfiltered; write the file with this pipeline, or repack it (`h5repack -l CONTI -f NONE`)"
                )
            layout[name] = _Entry(dataset.shape, dataset.dtype, offset)
    end = max((entry.offset + entry.dtype.itemsize * math.prod(entry.shape) for entry in layout.values()), default=0)
    if path.stat().st_size < end:
        raise UserError(f"{path}: truncated, {path.stat().st_size:,} of {end:,} bytes are there; delete it and start again")
    return layout


def _attributes(path: Path) -> dict[str, Any]:
    with _opened(path) as file:
        if ATTRIBUTE not in file.attrs:
            raise UserError(f"{path}: was not written by this pipeline (it has no attribute `{ATTRIBUTE}`); give the output of the stage before")
        return json.loads(bytes(file.attrs[ATTRIBUTE]).rstrip(b"\x00"))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UserError(f"{path}: not an HDF5 file, or truncated ({error}); delete it and start again") from error
    with file:
        yield file


def _row_count(shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> int:
    counts = {shape[0] for shape, _ in shapes.values()}
    if len(counts) != 1 or min(counts) < 1:
        raise ValueError(f"arrays of one file have equally many rows, at least one; got {sorted(counts)}")
    return counts.pop()


def _json(attributes: Mapping[str, Any]) -> str:
    return json.dumps(attributes, sort_keys=True)


def _encoded(attributes: Mapping[str, Any], length: int) -> np.ndarray:
    text = _json(attributes).encode()
    if len(text) > length:
        raise ValueError(f"the final attributes need {len(text)} bytes, {length} are reserved")
    return np.array(text, dtype=f"S{length}")


def _layout_key(shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]], attributes: Mapping[str, Any]) -> str:
    layout = {name: [list(shape), np.dtype(dtype).str] for name, (shape, dtype) in shapes.items()}
    return hashlib.sha256(_json({"layout": layout, "attributes": dict(attributes)}).encode()).hexdigest()


def _write_at(file: int, values: np.ndarray, offset: int) -> None:
    rest = memoryview(values.reshape(-1).view(np.uint8))
    while rest:
        written = os.pwrite(file, rest[: 1 << 30], offset)
        rest, offset = rest[written:], offset + written
