"""Images in WebDataset's tar shards: `key.jpg` beside `key.cls`."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from vrpo.data.sources.base import EXTENSIONS, EncodedSource, Names, reason_of
from vrpo.data.sources.classes import ClassIndex, names_of_labels
from vrpo.data.sources.listing import containers, is_litter, open_file, printable, stamp
from vrpo.data.sources.splits import training_files, training_prefix
from vrpo.errors import UserError

LABEL = "cls"
OPEN_SHARDS = 64


class WebDatasetSource(EncodedSource):
    """All `*.tar` of a folder, in the order of their names; a sample is `<key>.<image extension>` and `<key>.cls`, the label in digits.

    Of several splits, in the shards' names or as folders in them, only the training split is taken. The headers of all members are read once,
    from which each image has its shard, offset and size; worker processes get these and read by `pread`.

    Raises:
        UserError: there are no shards, one is damaged or compressed as a whole, or an image has no label.
    """

    def __init__(self, root: Path | str, resolution: int, index: ClassIndex | None = None) -> None:
        super().__init__("webdataset", root, resolution)
        self.stamps[str(self.root)] = stamp(self.root)
        self._shards = [str(path) for path in training_files(containers(self.root, ".tar"), self.root)]
        self.stamps |= {path: stamp(path) for path in self._shards}
        if not self._shards:
            raise UserError(f"data.root: {self.root} holds no *.tar; set `data.root` to the folder of the WebDataset shards")
        names: list[str] = []
        places: list[tuple[int, int, int]] = []
        labels: list[int] = []
        for shard, path in enumerate(tqdm(self._shards, desc="tar shards", unit="shard", disable=len(self._shards) < 8, mininterval=1.0)):
            for name, offset, size, label in _samples(Path(path)):
                names.append(name)
                places.append((shard, offset, size))
                labels.append(label)
        if not names:
            raise UserError(f"data.root: the shards of {self.root} hold no images ({', '.join(EXTENSIONS)})")
        prefix = training_prefix(names, str(self.root), folders=0)
        used = [index for index, name in enumerate(names) if name.startswith(prefix)]
        self.files = Names([names[index] for index in used])
        self._places = np.array(places, dtype=np.int64)[used]  # [N, 3]: shard, offset, size
        self.labels = np.array(labels, dtype=np.int64)[used]
        self.classes = names_of_labels(self.labels, index, str(self.root))
        self._open: dict[int, io.FileIO] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def open(self, index: int) -> IO[bytes]:
        """The bytes of image `index`."""
        shard, offset, size = (int(value) for value in self._places[index])
        if shard not in self._open:
            while len(self._open) >= OPEN_SHARDS:
                self._open.pop(next(iter(self._open))).close()
            self._open[shard] = io.FileIO(self._shards[shard])
        return io.BytesIO(os.pread(self._open[shard].fileno(), size, offset))

    def name_of(self, index: int) -> str:
        """Shard and name of image `index`."""
        return f"{self._shards[int(self._places[index, 0])]}/{self.files[index]}"

    def content(self) -> str:
        """Hash of the shards' names and of the images' names, sizes and labels, in order."""
        content = hashlib.sha256("\n".join(Path(path).name for path in self._shards).encode())
        for file, (shard, _, size), label in zip(self.files, self._places.tolist(), self.labels.tolist(), strict=True):
            content.update(f"{shard}\0{file}\0{size}\0{label}\n".encode("utf-8", "surrogateescape"))
        return content.hexdigest()


def _samples(path: Path) -> list[tuple[str, int, int, int]]:
    """(name, offset, size, label) of the images of a shard, in its order."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members = []  # else the archive keeps every header it has met
                key, extension = _key(member.name)
                is_image = f".{extension}".endswith(EXTENSIONS)
                if is_litter(member.name) or not (is_image or extension == LABEL) or member.isdir():
                    continue
                if not member.isfile():
                    raise UserError(
                        f"{path}: `{printable(member.name)}` is a link or no file; pack the files themselves (tar --dereference --hard-dereference)"
                    )
                if is_image:
                    if key in images:
                        raise UserError(
                            f"{path}: sample `{printable(key)}` has two images, {printable(images[key][0])} and {printable(member.name)}; a sample has one"
                        )
                    images[key] = member.name, member.offset_data, member.size
                else:
                    labels[key] = int(np.int64(int(archive.extractfile(member).read())))
    except UserError:
        raise
    except Exception as error:  # of damaged headers nearly anything is raised
        raise UserError(f"{path}: not a readable, uncompressed tar of samples with numbers in .{LABEL} ({reason_of(error)}); fetch it again") from error
    missing = next((key for key in images if key not in labels), None)
    if missing is not None:
        raise UserError(f"{path}: image `{printable(images[missing][0])}` has no `{printable(missing)}.{LABEL}` beside it; a sample needs its label")
    return [(*image, labels[key]) for key, image in images.items()]


def _key(name: str) -> tuple[str, str]:
    """`a/b.seg.jpg` -> (`a/b`, `seg.jpg`): WebDataset's keys end at the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return folder + slash + key, extension.lower()
