"""Images in folders, one for each class, and ImageNet as ILSVRC ships it."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from vrpo.data.sources.base import EncodedSource, Names
from vrpo.data.sources.classes import ClassIndex, labels_by_name, read_class_index
from vrpo.data.sources.formats import (
    EXTENSIONS,
    first_bytes,
    is_image,
    is_unread_image,
    refuse_outside,
    refuse_unread,
)
from vrpo.data.sources.listing import (
    files_in,
    folders_in,
    is_folder,
    open_file,
    printable,
    stamp,
    walk,
)
from vrpo.data.sources.splits import training_folder
from vrpo.errors import UserError

ILSVRC_TRAIN = ("ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", "CLS-LOC/train", "train", ".")
SYNSET = re.compile(r"n\d{8}")
ILSVRC_INDEX = ("imagenet_class_index.json", "LOC_synset_mapping.txt")


class FolderSource(EncodedSource):
    """One folder per class; order and extensions of files as in torchvision's `ImageFolder`.

    Args:
        root: folder that holds the class folders, or splits (`train`, `val`) of which one does.
        resolution: side of the images in pixels, after ADM's centre crop.
        index: order and names of the classes; None: sorted by name.
        kind: for the fingerprint.

    Raises:
        UserError: the root is missing, it or a class folder holds no images, images are of a kind
            that is not read or beside the class folders, or a folder cannot be listed.
    """

    def __init__(
        self,
        root: Path | str,
        resolution: int,
        index: ClassIndex | None = None,
        kind: str = "folder",
    ) -> None:
        super().__init__(kind, root, resolution)
        if not is_folder(self.root):
            raise UserError(
                f"data.root: there is no folder {self.root}; put the training images there, "
                "one folder per class, or set `data.root` to where they are"
            )
        self.stamps[str(self.root)] = stamp(self.root)
        folders = folders_in(self.root)
        if split := training_folder(folders, str(self.root)):
            self.root /= split
            self.stamps[str(self.root)] = stamp(self.root)
            folders = folders_in(self.root)
        if not folders:
            raise UserError(
                f"data.root: {self.root} holds no class folders; "
                "`data.root` must name the folder whose subfolders are the classes"
            )
        outside = files_in(self.root)
        refuse_outside(self.root, [*filter(is_image, outside), *self._unread(outside)])
        label_of, self.classes = labels_by_name(folders, index, str(self.root))
        files: list[str] = []  # relative to the root
        labels: list[int] = []
        unread: list[str] = []
        for name, label in sorted(label_of.items(), key=lambda item: item[1]):
            listed = walk(self.root, name)
            self.stamps |= {str(self.root / folder.path): folder.stamp for folder in listed}
            inside = [f"{folder.path}/{file}" for folder in listed for file in folder.files]
            found = [file for file in inside if is_image(file)]
            unread += self._unread(inside)
            if not found and not unread:
                raise UserError(
                    f"data.root: class folder {printable(self.root / name)} holds no images "
                    f"({', '.join(EXTENSIONS)}); add some or remove the folder"
                )
            files += found
            labels += [label] * len(found)
        refuse_unread(self.root, unread)
        self.files = Names(files)
        self.labels = np.array(labels, dtype=np.int64)
        self._sizes: np.ndarray | None = None  # [N] int64, bytes of the files

    def _unread(self, files: list[str]) -> list[str]:
        """Images among `files` of a kind that is not read."""

        def is_unread(file: str) -> bool:
            return is_unread_image(file, partial(first_bytes, self.root / file))

        return [file for file in files if not is_image(file) and is_unread(file)]

    def open(self, index: int) -> IO[bytes]:
        """The file of image `index`."""
        return open_file(self.root / self.files[index])

    def name_of(self, index: int) -> str:
        """Path of image `index`."""
        return str(self.root / self.files[index])

    def content(self) -> str:
        """Hash of the files' names and sizes, in order."""
        self._sizes = np.array([_size(self.root / file) for file in self.files], dtype=np.int64)
        content = hashlib.sha256()
        for file, size in zip(self.files, self._sizes.tolist(), strict=True):
            content.update(f"{file}\0{size}\n".encode("utf-8", "surrogateescape"))
        return content.hexdigest()

    def is_current(self, rows: slice) -> bool:
        """See `EncodedSource.is_current`; the files of `rows` must have kept their sizes."""
        return super().is_current(rows) and all(
            _size(self.root / self.files[row]) == self._sizes[row]
            for row in range(rows.start, rows.stop)
        )


def ilsvrc_source(
    root: Path | str, resolution: int, index: ClassIndex | None = None
) -> FolderSource:
    """ImageNet's training images as ILSVRC ships them, labelled in the order of the synsets.

    They are `ILSVRC/Data/CLS-LOC/train/<wnid>/*.JPEG` below `root`. Class names come from `index`,
    or from `imagenet_class_index.json` or `LOC_synset_mapping.txt` in `root`.

    Raises:
        UserError: there are no such folders.
    """
    root = Path(root)
    for place in ILSVRC_TRAIN:
        if is_folder(root / place) and any(map(SYNSET.fullmatch, folders_in(root / place))):
            break
    else:
        raise UserError(
            f"data.root: {root} holds no ILSVRC/Data/CLS-LOC/train/n........; "
            "set `data.root` to where the archive was unpacked"
        )
    indices = [root / name for name in ILSVRC_INDEX]
    if index is None:
        index = next((read_class_index(file) for file in indices if file.is_file()), None)
    source = FolderSource(root / place, resolution, index, kind="ilsvrc")
    source.stamps |= {str(file): stamp(file) for file in indices}
    return source


def _size(file: Path) -> int:
    """Bytes of a file; -1 where it is a broken link or not accessible."""
    try:
        return file.stat().st_size
    except OSError:
        return -1
