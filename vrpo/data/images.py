"""Where images come from: sources of labelled, square uint8 RGB images."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from vrpo.errors import UserError

if TYPE_CHECKING:
    from vrpo.config.options import DataOptions

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder


class ImageSource(Protocol):
    """A fixed row of labelled images; everything downstream knows images only through this."""

    labels: np.ndarray  # [N] int64

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, index: int) -> np.ndarray:
        """Image `index` as uint8 `[H, W, 3]`, cropped and resized to the source's resolution."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-able: `name`, `count`, `classes` and `fingerprint`, which differs where images, order, labels or resolution do."""
        ...


class DigitsSource:
    """scikit-learn's handwritten digits: 1,797 scans of 8x8 pixels, 16 grey levels (UCI optdigits), inside the package.

    Args:
        resolution: side of the images in pixels; the scans are upsampled to it (bicubic).
    """

    def __init__(self, resolution: int) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.resolution = resolution
        self.labels: np.ndarray = digits.target.astype(np.int64)
        self._scans = np.round(digits.images * (255 / 16)).astype(np.uint8)  # [N, 8, 8]

    def __len__(self) -> int:
        return len(self._scans)

    def read(self, index: int) -> np.ndarray:
        """Image `index`, uint8 `[resolution, resolution, 3]`."""
        size = (self.resolution, self.resolution)
        return np.asarray(Image.fromarray(self._scans[index]).resize(size, Image.Resampling.BICUBIC).convert("RGB"))

    def describe(self) -> dict[str, Any]:
        """See `ImageSource.describe`; the fingerprint hashes all pixels and labels."""
        content = hashlib.sha256(self._scans.tobytes() + self.labels.tobytes()).hexdigest()
        fingerprint = _fingerprint("digits", self.resolution, content)
        return {"name": "digits", "count": len(self), "classes": len(np.unique(self.labels)), "fingerprint": fingerprint}


class FolderSource:
    """One folder per class; classes, files and extensions in the order and of the kinds of torchvision's `ImageFolder`.

    Args:
        root: folder that holds the class folders.
        resolution: side of the images in pixels, after ADM's centre crop.

    Raises:
        UserError: the root is missing, or it or a class folder holds no images.
    """

    def __init__(self, root: Path | str, resolution: int) -> None:
        self.root = Path(root)
        self.resolution = resolution
        if not self.root.is_dir():
            raise UserError(
                f"data.root: there is no folder {self.root}; put the training images there, one folder per class, or set `data.root` to where they are"
            )
        self.classes = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        if not self.classes:
            raise UserError(f"data.root: {self.root} holds no class folders; `data.root` must name the folder whose subfolders are the classes")
        self.files: list[str] = []  # relative to the root
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            files = _image_files(self.root, name)
            if not files:
                raise UserError(f"data.root: class folder {self.root / name} holds no images ({', '.join(EXTENSIONS)}); add some or remove the folder")
            self.files += files
            labels += [label] * len(files)
        self.labels: np.ndarray = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> np.ndarray:
        """Image `index`, uint8 `[resolution, resolution, 3]`.

        Raises:
            UserError: the file cannot be read as an image; names it.
        """
        path = self.root / self.files[index]
        try:
            with Image.open(path) as image:
                return np.asarray(center_crop(image.convert("RGB"), self.resolution))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: cannot be read as an image ({error}); restore the file, or remove it from the data set") from error

    def describe(self) -> dict[str, Any]:
        """See `ImageSource.describe`; the fingerprint hashes the files' names and sizes, not their pixels."""
        content = hashlib.sha256()
        for file in self.files:
            content.update(f"{file}\0{(self.root / file).stat().st_size}\n".encode())
        fingerprint = _fingerprint("folder", self.resolution, content.hexdigest())
        return {"name": f"folder {self.root.name}", "count": len(self), "classes": len(self.classes), "fingerprint": fingerprint}


def open_source(options: DataOptions) -> ImageSource:
    """The source that `options.source` names, checked against `options.num_classes`.

    Raises:
        UserError: its root is missing, or it has another number of classes.
    """
    source = DigitsSource(options.resolution) if options.source == "digits" else FolderSource(options.root, options.resolution)
    classes = source.describe()["classes"]
    if classes != options.num_classes:
        where = f" in {options.root}" if options.source == "folder" else ""
        raise UserError(
            f"data.num_classes: {options.num_classes}, but source `{options.source}` has {classes} classes{where}; set it to {classes} or mend the folders"
        )
    return source


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's centre crop (Dhariwal and Nichol, arXiv:2105.05233): the middle square of the image, resized to `size` x `size` pixels.

    Halved by box filter while the shorter side is at least twice `size`, then resized (bicubic) so that it equals `size`, then cropped.
    """
    width, height = image.size
    while min(width, height) >= 2 * size:
        width, height = width // 2, height // 2
        image = image.resize((width, height), Image.Resampling.BOX)
    scale = size / min(width, height)
    image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _image_files(root: Path, class_name: str) -> list[str]:
    files = []
    for folder, _, names in sorted(os.walk(root / class_name, followlinks=True)):
        relative = os.path.relpath(folder, root)
        files += [f"{relative}/{name}" for name in sorted(names) if name.lower().endswith(EXTENSIONS)]
    return files


def _fingerprint(name: str, resolution: int, content: str) -> str:
    return hashlib.sha256(json.dumps([name, resolution, content]).encode()).hexdigest()
