"""The protocol of image sources, and decoding to square images."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from vrpo.data.sources.listing import printable, stamp
from vrpo.data.sources.pixels import as_rgb
from vrpo.errors import UserError

MOST_PIXELS = 1 << 27
"""Of a resized image before the crop: one of 1 x 60,000 pixels would fill the memory."""


class UnreadableImageError(UserError):
    """An image that cannot be read: `where` and `reason`, with unprintable characters escaped."""

    def __init__(self, where: str, reason: str) -> None:
        where, reason = printable(where), printable(reason)
        super().__init__(
            f"{where}: cannot be read as an image ({reason}); "
            "restore the file, or set `data.skip_unreadable: true` to leave it out"
        )
        self.where, self.reason = where, reason


class ImageSource(Protocol):
    """A fixed row of labelled images; later stages access images only through this."""

    labels: np.ndarray  # [N] int64
    classes: list[str]  # names, by label
    resolution: int  # pixels of a side

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, index: int) -> np.ndarray:
        """Image `index` as uint8 `[H, W, 3]`, cropped and resized to the source's resolution.

        Raises:
            UnreadableImageError: it cannot be read.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-able: `name`, `count`, `classes` (their number) and `fingerprint`.

        The fingerprint differs where images, order, labels or resolution do.
        """
        ...


class EncodedSource(ABC):
    """Base of the sources of encoded images (JPEG, PNG, ...).

    A subclass sets names, labels and classes, and opens image `index`.

    Args:
        kind: for the fingerprint, e.g. `folder`.
        root: folder or file that holds the images.
        resolution: side of the images in pixels, after ADM's centre crop.
    """

    labels: np.ndarray
    classes: list[str]

    def __init__(self, kind: str, root: Path | str, resolution: int) -> None:
        self.kind, self.root, self.resolution = kind, Path(root), resolution
        self.stamps: dict[str, list[int]] = {}  # of the folders and archives that were listed
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def open(self, index: int) -> IO[bytes]:
        """The bytes of image `index`, as it is stored."""

    @abstractmethod
    def name_of(self, index: int) -> str:
        """Name of image `index`, for messages."""

    @abstractmethod
    def content(self) -> str:
        """A hash of the images' names, and of their sizes or checksums; not of their pixels."""

    def is_current(self, rows: slice) -> bool:
        """Whether the data are as they were listed.

        Of images, only the files of `rows` are examined.
        """
        return all(stamp(place) == found for place, found in self.stamps.items())

    def read(self, index: int) -> np.ndarray:
        """Image `index`, uint8 `[resolution, resolution, 3]`.

        Raises:
            UnreadableImageError: it cannot be read; names it.
        """
        try:
            with self.open(index) as file, Image.open(file) as image:
                return np.asarray(center_crop(as_rgb(image), self.resolution))
        except Exception as error:  # decoders of damaged files raise nearly anything
            raise UnreadableImageError(self.name_of(index), reason_of(error)) from error

    def describe(self) -> dict[str, Any]:
        """See `ImageSource.describe`."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.kind, self.resolution, self.content())
        return {
            "name": f"{self.kind} {self.root.name}",
            "count": len(self),
            "classes": len(self.classes),
            "fingerprint": self._fingerprint,
        }


def reason_of(error: Exception) -> str:
    """The message of `error` in one line; with its type if the text alone says little (`15`)."""
    if isinstance(error, UnidentifiedImageError):
        # Pillow's own text has an address in memory
        return "cannot identify its format, or its header is damaged"
    text = " ".join(str(error).split())
    plain = isinstance(error, OSError | SyntaxError | ValueError | Image.DecompressionBombError)
    return text if plain and text else f"{type(error).__name__}: {text}".removesuffix(": ")


class Names(Sequence[str]):
    """Many short names in one block of memory.

    1.28 million file names take 40 MB instead of 150, and reach worker processes in one piece.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.encoded = np.array(encoded, dtype=bytes)  # [N]

    @classmethod
    def of(cls, encoded: np.ndarray) -> Names:
        """Names from their block of memory."""
        names = cls([])
        names.encoded = encoded
        return names

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> str:
        return bytes(self.encoded[index]).decode("utf-8", "surrogateescape")


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's centre crop (Dhariwal and Nichol, arXiv:2105.05233) to `size` x `size` pixels.

    The image is halved by a box filter while its shorter side is at least twice `size`, resized
    (bicubic) so that this side equals `size`, and cropped to the middle square.

    Raises:
        ValueError: it is empty, or so narrow that the resized image would not fit into memory.
    """
    width, height = image.size
    if max(width, height) * size * size >= MOST_PIXELS * min(width, height):
        raise ValueError(
            f"{width} x {height} pixels are too narrow a picture to be cropped to a square"
        )
    while min(width, height) >= 2 * size:
        width, height = width // 2, height // 2
        image = image.resize((width, height), Image.Resampling.BOX)
    scale = size / min(width, height)
    image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def fingerprint(kind: str, resolution: int, content: str) -> str:
    """Hex SHA-256 of a source's kind, resolution and content hash."""
    return hashlib.sha256(json.dumps([kind, resolution, content]).encode()).hexdigest()
