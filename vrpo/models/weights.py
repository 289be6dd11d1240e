"""Files of weights, in either of PyTorch's two formats: reading, and checks of their content."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from vrpo.errors import UserError

LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
FOREIGN = {  # the first bytes of files that are often given in place of weights
    rb"version https://git-lfs": (
        "is a Git LFS pointer in the place of the file (`git lfs pull` fetches that)"
    ),
    rb"\s*<(!doctype|html|\?xml)": "is a web page in the place of the file",
    rb'\s*\{\s*"': (
        "is a JSON file "
        "(the list of the shards, perhaps, that weights were cut into: save them as one)"
    ),
    rb"\x89HDF": "is an HDF5 file, not one of weights",
    rb"\x93NUMPY": "is a NumPy array, not a file of weights",
}


class Weights(NamedTuple):
    """The content of a file."""

    content: Mapping[str, Any]
    """Tensors by name, on the CPU; in a file of `torch.save`, whatever its dict holds."""
    metadata: Mapping[str, str]
    """Of safetensors; empty in a file of `torch.save`."""


def read_weights(path: Path | str, remedy: str) -> Weights:
    """Read a file of safetensors or of `torch.save`; its content, not its name, says which it is.

    Of pickled objects only tensors, plain values and `argparse.Namespace` are allowed.

    Args:
        path: the file.
        remedy: end of every error message: where to get the right file.

    Raises:
        UserError: the file is missing, damaged, of another kind, or holds other objects.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        if (path / ".metadata").is_file():
            command = f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE"
            what = f"is a distributed checkpoint (`python -m {command}` makes a file of it)"
        raise UserError(f"{path}: {what}; {remedy}")
    try:
        with open(path, "rb") as file:
            start = file.read(64)
        if _is_safetensors(start):
            return _read_safetensors(path)
        content = _read_pickle(path)
    except Exception as error:  # a damaged file, pickled or not, raises errors of almost any kind
        raise UserError(f"{path}: {_reason(error, start)}; {remedy}") from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path}: holds a {type(content).__name__}, not a dict of tensors; {remedy}"
        )
    return Weights(content, {})


def check_archive(path: Path | str) -> None:
    """Compare the parts of a `torch.save` file with their checksums; `torch.load` does not.

    Raises:
        ValueError: one of them differs.
        zipfile.BadZipFile: the file is truncated.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"the checksum of {damaged} differs")


def check_finite(state: Mapping[str, Any], where: Path | str, remedy: str) -> None:
    """Check that no tensor in `state`, which may be nested, holds a NaN or an infinite value.

    Raises:
        UserError: one does; names the first.
    """
    for name, tensor in _tensors(state):
        if not is_finite(tensor):
            bad = int((~torch.isfinite(tensor)).sum())
            raise UserError(
                f"{where}: {printable(name)} {list(tensor.shape)} holds NaN or infinite values "
                f"({bad:,} of {tensor.numel():,}); {remedy}"
            )


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite, by minimum and maximum: ten times as fast as `isfinite`."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:  # 8-bit floats have no minimum
        tensor = tensor.float()
    return all(map(bool, torch.isfinite(torch.stack(torch.aminmax(tensor)))))


def printable(name: str) -> str:
    """A tensor's name, whatever is in it, for a message of one line."""
    return name.encode("unicode_escape").decode()


def _is_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LARGEST_HEADER


def _read_safetensors(path: Path) -> Weights:
    with safe_open(path, framework="pt") as file:
        return Weights({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118


def _read_pickle(path: Path) -> Any:
    archive = zipfile.is_zipfile(path)
    if archive:
        check_archive(path)
    with torch.serialization.safe_globals([argparse.Namespace]), open(path, "rb") as file:
        if path.suffix == ".safetensors":  # given such a path, `torch.load` believes its name
            return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)


def _reason(error: Exception, start: bytes) -> str:
    for beginning, reason in FOREIGN.items():
        if re.match(beginning, start, re.IGNORECASE):
            return reason
    unsafe = re.search(r"GLOBAL (\S+)", str(error))
    if unsafe:
        return f"holds objects of type {printable(unsafe[1])}, which could run code"
    text = printable(" ".join(str(error).split())) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"not a file of weights, truncated or damaged ({text[:200]})"


def _tensors(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in values.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")
