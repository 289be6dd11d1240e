"""Which files of a folder or an archive are data. Hidden files and what systems leave behind are not; what cannot be listed is refused, never passed over."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from vrpo.errors import UserError

LITTER = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "@eadir",
    "lost+found",
    "$recycle.bin",
    "system volume information",
    "__pycache__",
}

PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".part", ".incomplete", ".crdownload", ".aria2")


class Folder(NamedTuple):
    """A folder that was listed."""

    path: str  # relative to the root, with `/`
    files: list[str]  # names, sorted
    stamp: list[int]  # of the folder, before it was listed


def is_litter(path: str) -> bool:
    """Whether a file is no data, or lies in a folder that is none: hidden (`._x.png`, `.DS_Store`, `.ipynb_checkpoints`), or made by a system (`__MACOSX`).

    Args:
        path: relative to the data's root, with `/`.
    """
    return any(
        (part.startswith(".") and part.strip(".")) or part.lower() in LITTER
        for part in path.split("/")
    )


def printable(name: Path | str) -> str:
    """`name` in one line, for a message: what cannot be printed is escaped (line breaks, bytes that are no UTF-8)."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(name))


def walk(root: Path, below: str = "") -> list[Folder]:
    """The folder `below` of `root` and all folders in it, links followed, in the order of torchvision's `ImageFolder` (sorted paths), without litter.

    Files are listed as they are: whether one is readable shows when it is read. What may be a folder and cannot be followed is refused.

    Raises:
        UserError: a folder cannot be listed, is a link to one that holds it, or a link without an image's ending leads nowhere.
    """
    return sorted(_walk(root, below, (_identity(root),) if below else ()))


def stamp(path: Path | str) -> list[int]:
    """Size (of a file) and time of change, which a folder has when something is added to or removed from it; zeros where nothing is there."""
    try:
        status = Path(path).stat()
    except OSError:
        return [0, 0]
    return [0 if stat.S_ISDIR(status.st_mode) else status.st_size, status.st_mtime_ns]


def is_folder(path: Path) -> bool:
    """Whether there is a folder, or a link to one.

    Raises:
        UserError: this cannot be seen, for want of permissions.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except PermissionError as error:
        raise UserError(
            f"data.root: {path} cannot be reached ({error.strerror}); make the folders above it accessible"
        ) from error
    except OSError:
        return False


def folders_in(root: Path) -> list[str]:
    """Names of the folders in `root`, links to folders included, sorted, without litter.

    Raises:
        UserError: as of `walk`.
    """
    return sorted(entry.name for entry in _entries(root) if _is_folder(entry))


def open_file(path: Path) -> IO[bytes]:
    """Open a file for reading. A pipe or a device, which could be waited for without end, is no file.

    Raises:
        OSError: it is missing, not readable, or no file.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is a pipe or a device, no file")
    return file


def files_in(root: Path) -> list[str]:
    """Names of what is no folder in `root`, sorted, without litter; errors as of `walk`."""
    return sorted(entry.name for entry in _entries(root) if not _is_folder(entry))


def files_below(root: Path) -> list[Path]:
    """Files in `root` and all folders below, without litter; order and errors as of `walk`."""
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
    unread = [
        name for name in names if name.lower().endswith(tuple(ending + more for more in PACKED))
    ]
    if unread:
        raise UserError(
            f"{root}: holds files that are packed or incomplete: {len(unread):,}, first `{printable(unread[0])}`; "
            f"unpack or fetch them, so that they end in {ending}, or move them elsewhere"
        )
    return [root / name for name in names if name.lower().endswith(ending)]


def _walk(root: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[Folder]:
    folder = root / below
    identity, changed = _identity(folder), stamp(folder)
    entries = _entries(folder)
    if identity in above:
        raise UserError(
            f"{printable(folder)}: is a link to a folder that holds it, so its files would be listed without end; remove the link"
        )
    inside = {entry.name for entry in entries if _is_folder(entry)}
    yield Folder(
        below, sorted(entry.name for entry in entries if entry.name not in inside), changed
    )
    for name in inside:
        yield from _walk(root, f"{below}/{name}" if below else name, (*above, identity))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_litter(entry.name)]
    except OSError as error:
        raise UserError(
            f"{printable(folder)}: cannot be listed ({error.strerror}); make it readable, or move it out of the data"
        ) from error


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link that leads nowhere is refused where, by its name, it may have been to a folder."""
    try:
        if entry.is_dir():
            return True
        nowhere = entry.is_symlink() and not Path(entry.path).exists()
    except OSError:  # e.g. a link to itself
        nowhere = True
    if nowhere and not Path(entry.name).suffix:
        raise UserError(
            f"{printable(entry.path)}: is a link to nothing that can be reached; restore what it was linked to, or remove the link"
        )
    return False
