"""Images in WebDataset's tar shards: `key.jpg` beside `key.cls`."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from tqdm import tqdm

from vrpo.data.sources.base import EncodedSource, Names, reason_of
from vrpo.data.sources.classes import ClassIndex, names_of_labels
from vrpo.data.sources.formats import EXTENSIONS, HEAD, is_image, is_unread_image, refuse_unread
from vrpo.data.sources.listing import containers, is_litter, open_file, printable, stamp
from vrpo.data.sources.splits import training_files, training_prefix
from vrpo.errors import UserError

LABEL = "cls"
OPEN_SHARDS = 64
MOST_SHOWN = 20  # bytes of an invalid label in a message


class Sample(NamedTuple):
    """An image of a shard."""

    name: str
    offset: int
    size: int
    label: int


class WebDatasetSource(EncodedSource):
    """All `*.tar` of a folder, in the order of their names.

    A sample is `<key>.<image extension>` and `<key>.cls`, the label in digits. Of several splits,
    in the shards' names or as folders in them, only the training split is used. The headers of all
    members are read once, and give each image's shard, offset and size; worker processes get these
    and read by `pread`.

    Raises:
        UserError: there are no shards, one is damaged or compressed as a whole, a sample has not
            one image and one label, a label is no number, or images are of a kind that is not read.
    """

    def __init__(self, root: Path | str, resolution: int, index: ClassIndex | None = None) -> None:
        super().__init__("webdataset", root, resolution)
        self.stamps[str(self.root)] = stamp(self.root)
        shards = training_files(containers(self.root, ".tar"), self.root)
        self._shards = [str(path) for path in shards]
        self.stamps |= {path: stamp(path) for path in self._shards}
        if not self._shards:
            raise UserError(
                f"data.root: {self.root} holds no *.tar; "
                "set `data.root` to the folder of the WebDataset shards"
            )
        names: list[str] = []
        places: list[tuple[int, int, int]] = []
        labels: list[int] = []
        unread: list[str] = []
        few = len(self._shards) < 8
        bar = tqdm(self._shards, desc="tar shards", unit="shard", disable=few, mininterval=1.0)
        for shard, path in enumerate(bar):
            samples, others = _read_headers(Path(path))
            for sample in samples:
                names.append(sample.name)
                places.append((shard, sample.offset, sample.size))
                labels.append(sample.label)
            unread += others
        if not names and not unread:
            raise UserError(
                f"data.root: the shards of {self.root} hold no images ({', '.join(EXTENSIONS)}); "
                "set `data.root` to shards of images"
            )
        prefix = training_prefix([*names, *unread], str(self.root), folders=0)
        refuse_unread(self.root, [name for name in unread if name.startswith(prefix)])
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
        for file, (shard, _, size), label in zip(
            self.files, self._places.tolist(), self.labels.tolist(), strict=True
        ):
            content.update(f"{shard}\0{file}\0{size}\0{label}\n".encode("utf-8", "surrogateescape"))
        return content.hexdigest()


def _read_headers(path: Path) -> tuple[list[Sample], list[str]]:
    """The samples of a shard, in its order, and the names of its images that are not read."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    label_names: dict[str, str] = {}
    unread: list[str] = []
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members = []  # else the archive keeps every header it has met
                name = member.name
                if member.isdir() or is_litter(name):
                    continue
                key, extension = _key(name)
                if not is_image(name) and extension != LABEL:
                    if is_unread_image(name, partial(_first_bytes, archive, member)):
                        unread.append(name)
                    continue
                if not member.isfile():
                    raise UserError(
                        f"{path}: `{printable(name)}` is a link or no file; "
                        "pack the files themselves (tar --dereference --hard-dereference)"
                    )
                if extension == LABEL:
                    if key in labels:
                        raise _repeated(path, key, "labels", label_names[key], name)
                    content = archive.extractfile(member).read(64)
                    labels[key] = _label(content, f"{path}: `{printable(name)}`")
                    label_names[key] = name
                else:
                    if key in images:
                        raise _repeated(path, key, "images", images[key][0], name)
                    images[key] = name, member.offset_data, member.size
    except UserError:
        raise
    except Exception as error:  # damaged headers raise nearly anything
        raise UserError(
            f"{path}: not a readable, uncompressed tar ({reason_of(error)}); fetch it again"
        ) from error
    missing = next((key for key in images if key not in labels), None)
    if missing is not None:
        raise UserError(
            f"{path}: image `{printable(images[missing][0])}` has no "
            f"`{printable(missing)}.{LABEL}` beside it; a sample needs its label"
        )
    unread_keys = {_key(name)[0] for name in unread}
    alone = next((key for key in labels if key not in images and key not in unread_keys), None)
    if alone is not None:
        raise UserError(
            f"{path}: label `{printable(label_names[alone])}` has no image beside it; "
            "a sample is an image and its label, in one shard"
        )
    return [Sample(*image, labels[key]) for key, image in images.items()], unread


def _repeated(path: Path, key: str, what: str, first: str, second: str) -> UserError:
    return UserError(
        f"{path}: sample `{printable(key)}` has two {what}, "
        f"{printable(first)} and {printable(second)}; a sample has one"
    )


def _first_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return archive.extractfile(member).read(HEAD) if member.isfile() else b""


def _label(content: bytes, where: str) -> int:
    """The number that a label file holds."""
    if not re.fullmatch(rb"\s*[+-]?\d{1,18}\s*", content):
        shown = content[:MOST_SHOWN].decode(errors="backslashreplace")
        more = "..." if len(content) > MOST_SHOWN else ""
        raise UserError(
            f"{where} holds `{printable(shown)}{more}`; "
            "a label is the number of its class in digits, from 0 up"
        )
    return int(content)


def _key(name: str) -> tuple[str, str]:
    """`a/b.seg.jpg` -> (`a/b`, `seg.jpg`): a key ends at the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return folder + slash + key, extension.lower()
