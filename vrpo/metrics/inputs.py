"""Images to be scored, and real ones to compare them with, read a batch at a time.

They are this pipeline's HDF5, ADM's .npz (`arr_0`), a folder (vrpo/metrics/folders.py) or an array.
Their order is part of the result: the Inception score permutes them, KID and the intervals draw
from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vrpo.data.shards import ShardedArrays, is_sharded, open_arrays
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.metrics.folders import PngFolder, RealFolder, count_and_side, digest_of
from vrpo.metrics.npz import NpzFile

ARRAY = "arr_0"  # name of the images in ADM's files


class Images(Protocol):
    """A set of square RGB images."""

    path: Path
    count: int
    resolution: int
    attributes: dict[str, Any]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Consecutive uint8 batches [B, H, W, 3], the last one shorter."""
        ...

    def digest(self) -> str:
        """Hex SHA-256 of the file, or over the names and hashes of all files."""
        ...


def open_images(path: Path | str) -> Images:
    """Samples at `path`: .h5 with `images`, a folder of its shards, .npz, or a folder of PNGs.

    Raises:
        UserError: it is missing or none of these, is not uint8 RGB, or sizes differ or are not
            square.
    """
    path = Path(path)
    if _is_plain_folder(path):
        return PngFolder(path)
    return _open_stored(path, "samples as .h5, .npz or a folder of PNGs")


def open_real_images(path: Path | str, resolution: int | None = None) -> Images:
    """Real images at `path`: as samples, but a folder may hold images of any kind and size.

    These are cropped and resized as in the images stage.

    Args:
        path: `.h5`, `.npz` or a folder.
        resolution: side of the images of a folder; None: the one that all of them have.

    Raises:
        UserError: as in `open_images`, or images of a folder differ in size without `resolution`.
    """
    path = Path(path)
    if _is_plain_folder(path):
        return RealFolder(path, resolution)
    return _open_stored(path, "real images as .h5, .npz or a folder")


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not is_sharded(path)


def _open_stored(path: Path, wanted: str) -> Images:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give {wanted}")
    if path.suffix == ".npz":
        return NpzImages(path)
    if path.is_file() and path.suffix not in (".h5", ".hdf5"):
        raise UserError(f"{path}: is neither .h5 nor .npz; give {wanted}")
    return StoredImages(path)


class ArrayImages:
    """An array of images, uint8 [N, H, H, 3]; messages call it `name`."""

    def __init__(self, array: np.ndarray, name: str) -> None:
        self.path = Path(name)
        self.attributes: dict[str, Any] = {}
        self._array = array
        self.count, self.resolution = count_and_side(self.path, array.shape, array.dtype)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Consecutive uint8 batches [B, H, W, 3]."""
        return (self._array[start : start + size] for start in range(0, self.count, size))

    def digest(self) -> str:
        """SHA-256 of the pixels."""
        return hashlib.sha256(np.ascontiguousarray(self._array).data).hexdigest()


class StoredImages:
    """`images` of one of this pipeline's HDF5 files, or of a folder of its shards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays = open_arrays(path)
        self.attributes = self._arrays.attributes
        shape, dtype = self._arrays.shape("images"), self._arrays.dtype("images")
        self.count, self.resolution = count_and_side(path, shape, dtype)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Consecutive uint8 batches [B, H, W, 3]."""
        return (
            self._arrays.rows("images", slice(start, start + size))
            for start in range(0, self.count, size)
        )

    def digest(self) -> str:
        """SHA-256 of the file, or over the names and hashes of the shards."""
        if isinstance(self._arrays, ShardedArrays):
            return digest_of(self.path, [file.path for file in self._arrays.files])
        return sha256(self.path)


class NpzImages:
    """`arr_0` of a .npz, streamed: ADM's 50,000 images of 256 x 256 are 10 GB.

    It is read once against its checksum before any image goes through a network.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attributes: dict[str, Any] = {}
        self._file = NpzFile(path)
        if ARRAY not in self._file:
            held = ", ".join(self._file.names) or "none"
            raise UserError(
                f"{path}: holds no array `{ARRAY}`, only {held}; "
                f"images are uint8 [N, H, W, 3] under `{ARRAY}`"
            )
        header = self._file.header(ARRAY)
        self.count, self.resolution = count_and_side(path, header.shape, header.dtype)
        if header.fortran:
            raise UserError(
                f"{path}: `{ARRAY}` is in Fortran order; "
                "write it again with numpy.ascontiguousarray"
            )
        self._file.verify(ARRAY)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Consecutive uint8 batches [B, H, W, 3]."""
        return self._file.rows(ARRAY, size)

    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)
