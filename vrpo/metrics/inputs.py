"""Images to be scored, and real ones that they are compared with: this pipeline's HDF5, ADM's .npz (`arr_0`), or a folder. Read a batch at a time.

The order of the images is part of the result: the Inception score permutes them, KID and the intervals draw among them. Files
of a folder are in natural order, `2.png` before `10.png`, so that a folder and the .npz made of it in that order score alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image

from vrpo.data.shards import ShardedArrays, is_sharded, open_arrays
from vrpo.data.sources.base import EncodedSource, UnreadableImageError, reason_of
from vrpo.data.sources.formats import (
    EXTENSIONS,
    first_bytes,
    is_image,
    is_unread_image,
    refuse_unread,
)
from vrpo.data.sources.listing import files_below, open_file, printable
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.metrics.npz import NpzFile

ARRAY = "arr_0"  # what ADM's files call images
THREADS = 8  # that decode the images of a batch


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
        """Hex SHA-256 of the file's (or of all files') bytes."""
        ...


def open_images(path: Path | str) -> Images:
    """Samples at `path`: `.h5` with `images` or a folder of its shards, `.npz` with `arr_0`, or a folder of PNGs.

    Raises:
        UserError: it is missing or none of these, is not uint8 RGB, or sizes are mixed or not square.
    """
    path = Path(path)
    return (
        PngFolder(path)
        if _is_plain_folder(path)
        else _open_stored(path, "samples as .h5, .npz or a folder of PNGs")
    )


def open_real_images(path: Path | str, resolution: int | None = None) -> Images:
    """Real images at `path`: as samples, but a folder may hold images of any size, which become what the images stage makes of them.

    Args:
        path: `.h5`, `.npz` or a folder.
        resolution: side of the images of a folder; None: that which all of them have.

    Raises:
        UserError: as `open_images`; or the images of a folder have several sizes and no `resolution` is given.
    """
    path = Path(path)
    return (
        RealFolder(path, resolution)
        if _is_plain_folder(path)
        else _open_stored(path, "real images as .h5, .npz or a folder")
    )


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


class StoredImages:
    """`images` of one of this pipeline's HDF5 files, or of a folder of its shards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays = open_arrays(path)
        self.attributes = self._arrays.attributes
        self.count, self.resolution = _checked(
            path, self._arrays.shape("images"), self._arrays.dtype("images")
        )

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Consecutive uint8 batches [B, H, W, 3]."""
        return (
            self._arrays.rows("images", slice(start, start + size))
            for start in range(0, self.count, size)
        )

    def digest(self) -> str:
        """SHA-256 of the file, or over the names and hashes of the shards."""
        return (
            _digest_of(self.path, [file.path for file in self._arrays.files])
            if isinstance(self._arrays, ShardedArrays)
            else sha256(self.path)
        )


class NpzImages:
    """`arr_0` of a .npz, streamed: ADM's 50,000 images of 256 x 256 are 10 GB.

    All of it is read once at the start, against its checksum, before any of it goes through a network.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attributes: dict[str, Any] = {}
        self._file = NpzFile(path)
        if ARRAY not in self._file:
            held = ", ".join(self._file.names) or "none"
            raise UserError(
                f"{path}: holds no array `{ARRAY}`, only {held}; images are uint8 [N, H, W, 3] under `{ARRAY}`"
            )
        header = self._file.header(ARRAY)
        self.count, self.resolution = _checked(path, header.shape, header.dtype)
        if header.fortran:
            raise UserError(
                f"{path}: `{ARRAY}` is in Fortran order; write it again with numpy.ascontiguousarray"
            )
        self._file.verify(ARRAY)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Consecutive uint8 batches [B, H, W, 3]."""
        return self._file.rows(ARRAY, size)

    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)


class PngFolder:
    """All PNGs below a folder, in natural order.

    Their headers are read at once, so that whatever they tell is known before the first image is scored.

    Raises:
        UserError: there are none, other images lie beside them, or one is no PNG by its content, no 8-bit RGB, or of another size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attributes: dict[str, Any] = {}
        images = in_natural_order(path)
        self._files = [file for file in images if file.suffix.lower() == ".png"]
        if others := [file for file in images if file.suffix.lower() != ".png"]:
            raise UserError(
                f"{path}: {len(others):,} of its {len(images):,} images are no .png files, "
                f"first {printable(others[0].relative_to(path))}; samples are PNGs alone, as lossy "
                "compression changes every score: save all as .png, or move the others elsewhere"
            )
        if not self._files:
            raise UserError(f"{path}: no PNG in it; give the folder of the samples")
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            sides = list(pool.map(_png_side, self._files))
        self.count, self.resolution = len(self._files), sides[0]
        odd = next((index for index, side in enumerate(sides) if side != self.resolution), None)
        if odd is not None:
            raise UserError(
                f"{self._files[odd]}: {sides[odd]} x {sides[odd]} pixels, while {self._files[0].name} has {self.resolution} x {self.resolution}; "
                "all images must have one size"
            )

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Consecutive uint8 batches [B, H, W, 3]."""
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            for start in range(0, self.count, size):
                yield np.stack(list(pool.map(_decoded, self._files[start : start + size])))

    def digest(self) -> str:
        """SHA-256 over the names and hashes of all files."""
        return _digest_of(self.path, self._files)


class RealFolder(EncodedSource):
    """All images below a folder, in natural order, cropped and resized to `resolution` as the images stage does it (`EncodedSource.read`).

    `attributes["fitted"]` tells of how many images that changed, if any.

    Raises:
        UserError: there are none, one is no image or of a kind that is not read, or their sizes differ and no resolution is given.
    """

    def __init__(self, path: Path, resolution: int | None) -> None:
        self._files = in_natural_order(path)
        unread = [file for file in self._files if not is_image(file.name)]
        refuse_unread(path, [file.relative_to(path).as_posix() for file in unread])
        if not self._files:
            raise UserError(
                f"{path}: no images in it ({', '.join(EXTENSIONS)}); give the folder of the real images"
            )
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            sizes = list(pool.map(_size, self._files))
        if resolution is None:
            resolution = sizes[0][0]
            odd = next(
                (index for index, size in enumerate(sizes) if size != (resolution, resolution)),
                None,
            )
            if odd is not None:
                width, height = sizes[odd]
                raise UserError(
                    f"{self._files[odd]}: {width} x {height} pixels; images that differ in size or are not square need --resolution"
                )
        super().__init__("folder", path, resolution)
        self.path, self.count = path, len(self._files)
        self.labels, self.classes = np.zeros(self.count, np.int64), []  # of no use here
        changed = sum(size != (resolution, resolution) for size in sizes)
        enlarged = sum(min(size) < resolution for size in sizes)
        self.attributes: dict[str, Any] = (
            {"fitted": {"images": changed, "enlarged": enlarged}} if changed else {}
        )

    def open(self, index: int) -> IO[bytes]:
        """See `EncodedSource.open`."""
        return open_file(self._files[index])

    def name_of(self, index: int) -> str:
        """See `EncodedSource.name_of`."""
        return str(self._files[index])

    def content(self) -> str:
        """See `EncodedSource.content`."""
        return self.digest()

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Consecutive uint8 batches [B, H, W, 3]."""
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            for start in range(0, self.count, size):
                yield np.stack(
                    list(pool.map(self._fitted, range(start, min(start + size, self.count))))
                )

    def digest(self) -> str:
        """SHA-256 over the names and hashes of all files."""
        return _digest_of(self.path, self._files)

    def _fitted(self, index: int) -> np.ndarray:
        try:
            return self.read(index)
        except UnreadableImageError as error:
            raise UserError(
                f"{error.where}: cannot be read as an image ({error.reason}); restore or remove it"
            ) from error


def in_natural_order(folder: Path) -> list[Path]:
    """The images below `folder`, of all kinds, in natural order of their paths.

    Linked folders are included, litter is not.
    """
    images = [
        file
        for file in files_below(folder)
        if is_image(file.name) or is_unread_image(file.name, partial(first_bytes, file))
    ]
    return sorted(images, key=lambda file: natural_order(file.relative_to(folder)))


def natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """Sorting key of paths, folder by folder, in which runs of digits count as numbers: `img2` < `img10`; of `1` and `01` the texts decide."""
    parts = [re.split("([0-9]+)", part) for part in path.parts]  # text and digits in turn
    return [
        [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)]
        for pieces in parts
    ], path.as_posix()


def _digest_of(folder: Path, files: list[Path]) -> str:
    lines = (f"{file.relative_to(folder).as_posix()} {sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _png_side(file: Path) -> int:
    """Pixels of a side of a square 8-bit RGB image."""
    with _opened(file) as image:
        if image.format != "PNG":
            raise UserError(
                f"{file}: is a {image.format} and no PNG; lossy compression changes every score, save samples as PNG"
            )
        if image.mode not in ("RGB", "L", "P"):
            raise UserError(f"{file}: mode {image.mode}; samples are 8-bit RGB, save them so")
        return _checked(file, (1, image.height, image.width, 3), np.dtype(np.uint8))[1]


def _size(file: Path) -> tuple[int, int]:
    """Width and height of an image."""
    with _opened(file) as image:
        return image.size


def _decoded(file: Path) -> np.ndarray:
    """One PNG as uint8 [H, W, 3]."""
    with _opened(file) as image:
        return np.asarray(image.convert("RGB"))


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with open_file(file) as opened, Image.open(opened) as image:
            yield image
    except UserError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise UserError(
            f"{printable(file)}: cannot be decoded ({reason_of(error)}); delete or replace it"
        ) from error


def _checked(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int]:
    """Count and side of images of this shape and type."""
    if dtype != np.uint8:
        raise UserError(
            f"{path}: images are {dtype}, scores need uint8 in 0..255; convert them as the protocol says (round or truncate)"
        )
    if len(shape) != 4 or shape[3] != 3 or shape[0] < 1:
        raise UserError(
            f"{path}: images have shape {list(shape)}, not [N, H, W, 3] with N >= 1; save RGB images so"
        )
    if shape[1] != shape[2]:
        raise UserError(
            f"{path}: images are {shape[2]} x {shape[1]} pixels; scores are defined on square ones"
        )
    return shape[0], shape[1]
