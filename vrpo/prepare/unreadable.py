"""The list of images that cannot be read, beside the file that they are missing from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vrpo.data.sources import ImageSource, UnreadableImageError
from vrpo.files import write_text


class Unreadable(NamedTuple):
    """An image that cannot be read."""

    index: int  # in the source
    where: str  # its path
    reason: str


class UnreadableList:
    """`images.unreadable.json`, updated while images are read, so that a kill loses nothing.

    Args:
        output: file of the images.
        source: fingerprint of the source; a list of another source is forgotten.
    """

    def __init__(self, output: Path, source: str) -> None:
        self.path = unreadable_path(output)
        self.source = source
        self.images: list[Unreadable] = []
        self.complete = False  # all images have been tried
        # without a list, or with a damaged one, the images are read again
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["source"] == source:
                images = [Unreadable(**image) for image in content["images"]]
                self.images, self.complete = images, bool(content["complete"])

    def add(self, images: Sequence[Unreadable]) -> None:
        """Add those that are not listed yet."""
        known = {image.index for image in self.images}
        new = [image for image in images if image.index not in known]
        if new:
            self.images = sorted([*self.images, *new])
            self.save(complete=self.complete)

    def save(self, complete: bool) -> None:
        """Write the list."""
        self.complete = complete
        content = {
            "source": self.source,
            "complete": complete,
            "images": [image._asdict() for image in self.images],
        }
        write_text(self.path, json.dumps(content, indent=1) + "\n")

    def clear(self) -> None:
        """Forget the list and remove its file."""
        self.images, self.complete = [], False
        self.path.unlink(missing_ok=True)

    def mended(self, source: ImageSource) -> bool:
        """Whether a listed image can be read now."""
        for image in self.images:
            try:
                source.read(image.index)
            except UnreadableImageError:
                continue
            return True
        return False


def unreadable_path(output: Path) -> Path:
    """Path of the list of the images missing from `output`."""
    return output.with_name(f"{output.stem}.unreadable.json")
