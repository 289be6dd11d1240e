"""Images in a .zip: a folder for each class, packed."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from vrpo.data.sources.base import EncodedSource, Names, reason_of
from vrpo.data.sources.classes import ClassIndex, labels_by_name
from vrpo.data.sources.formats import (
    HEAD,
    is_image,
    is_unread_image,
    refuse_outside,
    refuse_repeated,
    refuse_unread,
)
from vrpo.data.sources.listing import is_litter, open_file, printable, stamp
from vrpo.data.sources.splits import training_prefix
from vrpo.errors import UserError

LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, lengths of the name and of the extra field (APPNOTE.TXT, 4.3.7)."""
KINDS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


class ZipSource(EncodedSource):
    """A folder of class folders in a .zip, stored or deflated; order as on a disk (`FolderSource`).

    The classes may be below one common folder, and beside other splits (`train/`, `val/`). The
    table of contents is read once; worker processes get offsets, and open members by them.

    Raises:
        UserError: it is no .zip, is damaged or encrypted, holds no class folders with images, an
            image twice or beside the class folders, or images of a kind that is not read.
    """

    def __init__(self, root: Path | str, resolution: int, index: ClassIndex | None = None) -> None:
        super().__init__("zip", root, resolution)
        self.stamps[str(self.root)] = stamp(self.root)
        try:
            with open_file(self.root) as file, zipfile.ZipFile(file) as archive:
                members, unread = _images(archive)
        except Exception as error:  # of a damaged table nearly anything is raised
            raise UserError(
                f"data.root: {self.root} is not a readable .zip ({reason_of(error)}); "
                "fetch it again, or set `data.root` to another"
            ) from error
        for info in members:
            if info.flag_bits & 1 or info.compress_type not in KINDS:
                raise UserError(
                    f"data.root: {printable(info.filename)} in {self.root} is encrypted or packed "
                    "in an uncommon way; pack it again, stored or deflated"
                )
        refuse_repeated(self.root, [info.filename for info in members])
        names = [*(info.filename for info in members), *unread]
        inside = training_prefix(names, str(self.root), folders=1)
        refuse_unread(self.root, [name for name in unread if name.startswith(inside)])
        by_class: dict[str, list[zipfile.ZipInfo]] = {}
        outside: list[str] = []
        for info in members:
            if not info.filename.startswith(inside):
                continue
            name, _, rest = info.filename[len(inside) :].partition("/")
            if rest:
                by_class.setdefault(name, []).append(info)
            else:
                outside.append(info.filename)
        if not by_class:
            raise UserError(
                f"data.root: {self.root} holds no class folders with images; "
                "pack the folder whose subfolders are the classes"
            )
        refuse_outside(self.root, outside)
        label_of, self.classes = labels_by_name(by_class, index, str(self.root))
        ordered = [
            (label, info)
            for name, label in sorted(label_of.items(), key=lambda item: item[1])
            for info in sorted(by_class[name], key=lambda info: posixpath.split(info.filename))
        ]
        self.labels = np.array([label for label, _ in ordered], dtype=np.int64)
        self.files = Names([info.filename for _, info in ordered])
        places = [
            (info.header_offset, info.compress_size, info.compress_type, info.CRC)
            for _, info in ordered
        ]
        self._places = np.array(places, dtype=np.int64)  # [N, 4]
        self._file: io.FileIO | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}

    def open(self, index: int) -> IO[bytes]:
        """The unpacked bytes of image `index`."""
        if self._file is None:
            self._file = io.FileIO(self.root)
        offset, size, kind, checksum = (int(value) for value in self._places[index])
        file, length = self._file.fileno(), LOCAL_HEADER.size
        header = os.pread(file, length, offset).ljust(length, b"\0")
        signature, name, extra = LOCAL_HEADER.unpack(header)
        packed = os.pread(file, size, offset + length + name + extra)
        try:
            content = zlib.decompress(packed, -15) if kind == zipfile.ZIP_DEFLATED else packed
        except zlib.error as error:
            raise OSError(f"its packing is damaged: {error}") from error
        if signature != b"PK\3\4" or zlib.crc32(content) != checksum:
            raise OSError("its checksum differs from that in the archive's table")
        return io.BytesIO(content)

    def name_of(self, index: int) -> str:
        """Archive and name of image `index`."""
        return f"{self.root}/{self.files[index]}"

    def content(self) -> str:
        """Hash of the members' names and checksums, in order."""
        content = hashlib.sha256()
        for file, checksum in zip(self.files, self._places[:, 3], strict=True):
            content.update(f"{file}\0{checksum}\n".encode("utf-8", "surrogateescape"))
        return content.hexdigest()


def _images(archive: zipfile.ZipFile) -> tuple[list[zipfile.ZipInfo], list[str]]:
    """The images that are read, and the names of those that are not."""
    members: list[zipfile.ZipInfo] = []
    unread: list[str] = []
    for info in archive.infolist():
        if info.is_dir() or is_litter(info.filename):
            continue
        if is_image(info.filename):
            members.append(info)
        elif is_unread_image(info.filename, partial(_first_bytes, archive, info)):
            unread.append(info.filename)
    return members, unread


def _first_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The first bytes of a member; none where it is damaged, encrypted or oddly packed."""
    try:
        with archive.open(info) as file:
            return file.read(HEAD)
    except Exception:  # of damaged members nearly anything is raised
        return b""
