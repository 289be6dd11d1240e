"""Image files and their kinds. Kinds that are not read are refused, never skipped.

The extension decides. A file of another extension (README.md, labels.json) is no image. A file
without an extension is an image where its first bytes say so; no other file is opened.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from vrpo.data.sources.listing import open_file, printable
from vrpo.errors import UserError

# fmt: off
EXTENSIONS = (  # those of torchvision's ImageFolder
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)
UNREAD_EXTENSIONS = {
    ".gif", ".apng", ".jfif", ".jif", ".jpe", ".pjp", ".pjpeg", ".mpo", ".jxl", ".jxr",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jpm",
    ".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif",
    ".pbm", ".pnm", ".pam", ".pfm", ".dib", ".ico", ".cur", ".icns", ".xbm", ".xpm",
    ".tga", ".pcx", ".dds", ".exr", ".hdr", ".psd", ".xcf", ".sgi", ".qoi", ".bpg", ".flif",
    ".svg", ".svgz", ".emf", ".wmf", ".dcm",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw",
}
# fmt: on
HEAD = 32  # bytes in which a format shows
SIGNATURE = re.compile(
    rb"""\xff\xd8\xff                                           # JPEG
    | \x89PNG\r\n | GIF8[79]a | RIFF....WEBP
    | BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0       # BMP; size of its header
    | II[*+]\0 | MM\0[*+]                                       # TIFF, BigTIFF
    | P[1-7Ff]\s+(\d|\#|WIDTH)                                 # PBM, PGM, PPM, PAM, PFM
    | \0\0\0\x0c(jP\x20\x20|JXL\x20)\r\n | \xff\x4f\xff\x51 | \xff\x0a  # JPEG 2000, XL
    | .{4}ftyp(avi[fs]|hei[cfmsx]|hev[cmsx]|mif1|msf1|crx\x20)  # AVIF, HEIF, raw
    | 8BPS | qoif | DDS\x20 | v/1\x01 | \#\?RADIANCE | <svg""",
    re.VERBOSE | re.DOTALL,
)


def is_image(name: str) -> bool:
    """Whether a file of this name is read as an image."""
    return name.lower().endswith(EXTENSIONS)


def is_unread_image(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is an image of a kind that is not read.

    Its extension says so or, where it has none (`a`, `a.jpg.1`), its first bytes do.

    Args:
        name: of a file for which `is_image` is false, with or without folders.
        head: gives its first bytes; called only where there is no extension.
    """
    extension = PurePosixPath(name).suffix.lower()
    if re.search("[a-z]", extension):
        return extension in UNREAD_EXTENSIONS
    return bool(SIGNATURE.match(head()))


def first_bytes(file: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        with open_file(file) as opened:
            return opened.read(HEAD)
    except OSError:
        return b""


def refuse_unread(where: Path | str, names: Sequence[str]) -> None:
    """Refuse images of a kind that is not read.

    Args:
        where: the folder or archive that holds them.
        names: of the images; usually none.

    Raises:
        UserError: there are some.
    """
    if names:
        raise UserError(
            f"{where}: holds images of kinds that are not read: {_counted(names)}; "
            f"save them under an extension that is read ({', '.join(EXTENSIONS)}), "
            "or move them elsewhere"
        )


def refuse_outside(where: Path | str, names: Sequence[str]) -> None:
    """Refuse images that are in no class folder; arguments and errors as `refuse_unread`."""
    if names:
        raise UserError(
            f"{where}: holds images beside the class folders: {_counted(names)}; "
            "move them into one of these, or elsewhere"
        )


def refuse_repeated(archive: Path | str, names: Sequence[str]) -> None:
    """Refuse an archive with two files of one name, of which unpacking would keep one.

    Raises:
        UserError: a name is repeated.
    """
    if len(set(names)) < len(names):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        raise UserError(
            f"{archive}: holds files more than once under one name: {_counted(repeated)}; "
            "pack it again, each file once"
        )


def _counted(names: Sequence[str]) -> str:
    return f"{len(names):,}, first `{printable(names[0])}`"
