"""Files of a folder or an archive that are data.

Hidden files and those left by systems are skipped. What cannot be listed is refused, not skipped.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from vrpo.errors import UserError

LITTER = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "lost+found",
    "$recycle.bin", "system volume information", "__pycache__",
}  # fmt: skip

PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".part", ".incomplete", ".crdownload", ".aria2")


class Folder(NamedTuple):
    """A folder that was listed."""

    path: str  # relative to the root, with `/`
    files: list[str]  # names, sorted
    stamp: list[int]  # of the folder, before it was listed


def is_litter(path: str) -> bool:
    """Whether a file or a folder above it is hidden (`._x.png`) or a system's (`__MACOSX`).

    Args:
        path: relative to the data's root, with `/`.
    """
    return any(
        (part.startswith(".") and part.strip(".")) or part.lower() in LITTER
        for part in path.split("/")
    )


def printable(name: Path | str) -> str:
    """`name` in one line, with line breaks and bytes that are no UTF-8 escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(name))


def walk(root: Path, below: str = "") -> list[Folder]:
    """The folder `below` of `root` and all folders in it, without litter.

    The order is that of torchvision's `ImageFolder` (sorted paths), and links are followed. Whether
    a file is readable shows when it is read.

    Raises:
        UserError: a folder cannot be listed, is a link to one that contains it, or a link without a
            file extension is broken.
    """
    return sorted(_walk(root, below, (_identity(root),) if below else ()))


def stamp(path: Path | str) -> list[int]:
    """Size (0 for a folder) and time of change of a file or folder; zeros where nothing is there.

    A folder changes when something is added to it or removed from it.
    """
    try:
        status = Path(path).stat()
    except OSError:
        return [0, 0]
    return [0 if stat.S_ISDIR(status.st_mode) else status.st_size, status.st_mtime_ns]


def is_folder(path: Path) -> bool:
    """Whether there is a folder, or a link to one.

    Raises:
        UserError: permissions do not allow to see this.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except PermissionError as error:
        raise UserError(
            f"data.root: {path} cannot be reached ({error.strerror}); "
            "make the folders above it accessible"
        ) from error
    except OSError:
        return False


def folders_in(root: Path) -> list[str]:
    """Sorted names of the folders in `root`, links to folders included, without litter.

    Raises:
        UserError: as in `walk`.
    """
    return sorted(entry.name for entry in _entries(root) if _is_folder(entry))


def open_file(path: Path) -> IO[bytes]:
    """Open a file for reading; not a pipe or a device, which could block without end.

    Raises:
        OSError: it is missing, not readable, or no file.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)

    file = open(path, "rb", opener=opener)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is a pipe or a device, no file")
    return file


def files_in(root: Path) -> list[str]:
    """Sorted names of all but folders in `root`, without litter; errors as in `walk`."""
    return sorted(entry.name for entry in _entries(root) if not _is_folder(entry))


def files_below(root: Path) -> list[Path]:
    """Files in `root` and all folders below, without litter; order and errors as in `walk`."""
    return [root / folder.path / name for folder in walk(root) for name in folder.files]


def containers(root: Path, ending: str) -> list[Path]:
    """Sorted files in `root` whose names end in `ending`, in either case, without litter.

    If `root` is no folder, `root` itself.

    Raises:
        UserError: `root` cannot be listed, or holds such a file packed or incomplete (`x.tar.gz`).
    """
    if not is_folder(root):
        return [root] if os.path.lexists(root) else []
    names = sorted(entry.name for entry in _entries(root))
    packed = tuple(ending + more for more in PACKED)
    unread = [name for name in names if name.lower().endswith(packed)]
    if unread:
        raise UserError(
            f"{root}: holds files that are packed or incomplete: {len(unread):,}, "
            f"first `{printable(unread[0])}`; "
            f"unpack or fetch them, so that they end in {ending}, or move them elsewhere"
        )
    return [root / name for name in names if name.lower().endswith(ending)]


def _walk(root: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[Folder]:
    folder = root / below
    identity, changed = _identity(folder), stamp(folder)
    entries = _entries(folder)
    if identity in above:
        raise UserError(
            f"{printable(folder)}: is a link to a folder that holds it, "
            "so its files would be listed without end; remove the link"
        )
    inside = {entry.name for entry in entries if _is_folder(entry)}
    files = sorted(entry.name for entry in entries if entry.name not in inside)
    yield Folder(below, files, changed)
    for name in inside:
        yield from _walk(root, f"{below}/{name}" if below else name, (*above, identity))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_litter(entry.name)]
    except OSError as error:
        raise UserError(
            f"{printable(folder)}: cannot be listed ({error.strerror}); "
            "make it readable, or move it out of the data"
        ) from error


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one.

    A broken link is refused if, by its name, its target may have been a folder.
    """
    try:
        if entry.is_dir():
            return True
        nowhere = entry.is_symlink() and not Path(entry.path).exists()
    except OSError:  # e.g. a link to itself
        nowhere = True
    if nowhere and not Path(entry.name).suffix:
        raise UserError(
            f"{printable(entry.path)}: is a link to nothing that can be reached; "
            "restore what it was linked to, or remove the link"
        )
    return False
