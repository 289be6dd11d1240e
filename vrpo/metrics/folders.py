"""Folders of images: samples as PNGs, and real images of any kind and size.

Their files are in natural order, `2.png` before `10.png`. So a folder and a .npz made from it in
that order give equal scores.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

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

THREADS = 8  # that decode the images of a batch


class PngFolder:
    """All PNGs below a folder, in natural order; their headers are checked before any is scored.

    Raises:
        UserError: there are none, other images are beside them, or one is no PNG by its content,
            no 8-bit RGB, or of another size.
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
                f"{self._files[odd]}: {sides[odd]} x {sides[odd]} pixels, "
                f"while {self._files[0].name} has {self.resolution} x {self.resolution}; "
                "all images must have one size"
            )

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Consecutive uint8 batches [B, H, W, 3]."""
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            for start in range(0, self.count, size):
                yield np.stack(list(pool.map(_decoded, self._files[start : start + size])))

    def digest(self) -> str:
        """SHA-256 over the names and hashes of all files."""
        return digest_of(self.path, self._files)


class RealFolder(EncodedSource):
    """All images below a folder, in natural order, cropped and resized as in the images stage.

    `attributes["fitted"]` counts the images that this changed, if any.

    Raises:
        UserError: there are none, one is no image or of a kind that is not read, or their sizes
            differ and no `resolution` is given.
    """

    def __init__(self, path: Path, resolution: int | None) -> None:
        self._files = in_natural_order(path)
        unread = [file for file in self._files if not is_image(file.name)]
        refuse_unread(path, [file.relative_to(path).as_posix() for file in unread])
        if not self._files:
            raise UserError(
                f"{path}: no images in it ({', '.join(EXTENSIONS)}); "
                "give the folder of the real images"
            )
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            sizes = list(pool.map(_size, self._files))
        if resolution is None:
            resolution = sizes[0][0]
            for file, (width, height) in zip(self._files, sizes, strict=True):
                if not width == height == resolution:
                    raise UserError(
                        f"{file}: {width} x {height} pixels; "
                        "images that differ in size or are not square need --resolution"
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
                indices = range(start, min(start + size, self.count))
                yield np.stack(list(pool.map(self._fitted, indices)))

    def digest(self) -> str:
        """SHA-256 over the names and hashes of all files."""
        return digest_of(self.path, self._files)

    def _fitted(self, index: int) -> np.ndarray:
        try:
            return self.read(index)
        except UnreadableImageError as error:
            raise UserError(
                f"{error.where}: cannot be read as an image ({error.reason}); restore or remove it"
            ) from error


def in_natural_order(folder: Path) -> list[Path]:
    """Images of all kinds below `folder`, in natural order; follows links, skips litter."""
    images = [
        file
        for file in files_below(folder)
        if is_image(file.name) or is_unread_image(file.name, partial(first_bytes, file))
    ]
    return sorted(images, key=lambda file: natural_order(file.relative_to(folder)))


def natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """Sorting key of paths, folder by folder, with runs of digits as numbers: `img2` < `img10`.

    Of `1` and `01` the texts decide.
    """
    key = []
    for part in path.parts:
        pieces = re.split("([0-9]+)", part)  # text and digits in turn
        key.append([int(piece) if place % 2 else piece for place, piece in enumerate(pieces)])
    return key, path.as_posix()


def digest_of(folder: Path, files: list[Path]) -> str:
    """Hex SHA-256 over the names and hashes of `files`."""
    lines = (f"{file.relative_to(folder).as_posix()} {sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _png_side(file: Path) -> int:
    """Pixels of a side of a square 8-bit RGB image."""
    with _opened(file) as image:
        if image.format != "PNG":
            raise UserError(
                f"{file}: is a {image.format} and no PNG; "
                "lossy compression changes every score, save samples as PNG"
            )
        if image.mode not in ("RGB", "L", "P"):
            raise UserError(f"{file}: mode {image.mode}; samples are 8-bit RGB, save them so")
        return count_and_side(file, (1, image.height, image.width, 3), np.dtype(np.uint8))[1]


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


def count_and_side(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int]:
    """Count and side of images of this shape and type.

    Raises:
        UserError: they are not uint8 [N, H, H, 3].
    """
    if dtype != np.uint8:
        raise UserError(
            f"{path}: images are {dtype}, scores need uint8 in 0..255; "
            "convert them as the protocol says (round or truncate)"
        )
    if len(shape) != 4 or shape[3] != 3 or shape[0] < 1:
        raise UserError(
            f"{path}: images have shape {list(shape)}, not [N, H, W, 3] with N >= 1; "
            "save RGB images so"
        )
    if shape[1] != shape[2]:
        raise UserError(
            f"{path}: images are {shape[2]} x {shape[1]} pixels; scores are defined on square ones"
        )
    return shape[0], shape[1]
