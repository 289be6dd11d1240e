"""Arrays of a .npz from any source: never unpickled, checked before use, with clear errors."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from vrpo.errors import UserError

CHUNK = 1 << 20  # bytes


class Header(NamedTuple):
    """Header of an array."""

    shape: tuple[int, ...]
    fortran: bool  # first index fastest
    dtype: np.dtype
    length: int  # bytes of the header, before the numbers


class NpzFile:
    """A .npz, stored or compressed; `names` are its arrays.

    Raises:
        UserError: it is missing, no .npz, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._one_line(), zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                # compares its name with the table's: a damaged name would hide an array
                archive.open(entry).close()
            self._members = {
                entry.filename.removesuffix(".npy"): entry
                for entry in archive.infolist()
                if entry.filename.endswith(".npy")
            }
        self.names = list(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def header(self, name: str) -> Header:
        """Shape and type of the array `name`.

        Raises:
            UserError: there is none, it holds Python objects, or its bytes do not match its shape.
        """
        if name not in self._members:
            raise UserError(
                f"{self.path}: holds no array `{name}`, only {', '.join(self.names) or 'none'}; "
                "give a file that has it"
            )
        with self._one_line(), self._open(name) as stream:
            if np.lib.format.read_magic(stream) == (1, 0):
                form = np.lib.format.read_array_header_1_0(stream)
            else:
                form = np.lib.format.read_array_header_2_0(stream)
            header = Header(*form, stream.tell())
        if header.dtype.hasobject:
            raise UserError(
                f"{self.path}: `{name}` holds Python objects, which are never unpickled; "
                "save it as an array of numbers"
            )
        size = self._members[name].file_size
        needed = header.length + math.prod(header.shape) * header.dtype.itemsize
        if size != needed:
            raise UserError(
                f"{self.path}: `{name}` has {size:,} bytes, its shape {list(header.shape)} needs "
                f"{needed:,}; fetch or compute the file again"
            )
        return header

    def array(self, name: str) -> np.ndarray:
        """The array `name`, a copy; raises as `header`, and where its bytes are damaged."""
        header = self.header(name)
        with self._one_line(), self._open(name) as stream:
            values = np.frombuffer(stream.read()[header.length :], header.dtype)
            return values.reshape(header.shape, order="F" if header.fortran else "C").copy()

    def verify(self, name: str) -> None:
        """Read the array `name` without keeping it; raises `UserError` where it is damaged."""
        with self._one_line(), self._open(name) as stream:
            while stream.read(CHUNK):
                pass

    def rows(self, name: str, size: int) -> Iterator[np.ndarray]:
        """Stream batches [B, ...] of the array `name` [N, ...] (C order), the last one shorter.

        Raises as `array`.
        """
        header = self.header(name)
        with contextlib.ExitStack() as opened:
            with self._one_line():
                stream = opened.enter_context(self._open(name))
                stream.read(header.length)
            for start in range(0, header.shape[0], size):
                shape = (min(size, header.shape[0] - start), *header.shape[1:])
                with self._one_line():
                    content = stream.read(math.prod(shape) * header.dtype.itemsize)
                    batch = np.frombuffer(content, header.dtype).reshape(shape)
                yield batch

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        with zipfile.ZipFile(self.path) as archive, archive.open(self._members[name]) as stream:
            yield stream

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(f"{self.path}: no such file; name one that exists") from error
        except Exception as error:  # zipfile, zlib and NumPy raise nearly anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{self.path}: not a .npz, truncated or damaged ({reason}); "
                "fetch or compute it again"
            ) from error
