"""One set of arrays in one file, or in a folder of shards that independent jobs wrote: both are read alike.

`latents.h5`, or `latents/shard-00000-of-00004.h5` to `latents/shard-00003-of-00004.h5`. A shard's attributes are those of the whole, equal in all of them, and
under `shard` what is its own: `index`, `of`, and perhaps `error` (of stored features) and `skipped` (unreadable images).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vrpo.data.arrays import Arrays
from vrpo.data.checksums import verify
from vrpo.data.kinds import Kind, require_kind
from vrpo.data.layout import Attributes, layout_key
from vrpo.data.manifest import without
from vrpo.data.reading import read_rows
from vrpo.errors import UserError

SHARD = re.compile(r"shard-(\d{5})-of-(\d{5})\.h5")


def shard_name(index: int, of: int) -> str:
    """File name of shard `index` (from 0) of `of`."""
    return f"shard-{index:05d}-of-{of:05d}.h5"


def shard_of(path: Path | str) -> tuple[int, int]:
    """(index, of) that a file's name says; (0, 1) for any other name, which holds the whole.

    Raises:
        UserError: there is no such shard.
    """
    match = SHARD.fullmatch(Path(path).name)
    if not match:
        return 0, 1
    index, of = int(match[1]), int(match[2])
    if index >= of:
        raise UserError(
            f"{path}: there is no shard {index} of {of}; they are numbered from 0 to {of - 1}"
        )
    return index, of


def shard_rows(count: int, path: Path | str, batch_size: int = 1) -> slice:
    """Those of `count` rows that the file `path` holds: an equal part in whole batches, so that shards have the batches, and the bits, of one file.

    Raises:
        UserError: there are fewer batches than shards.
    """
    index, of = shard_of(path)
    batches = -(-count // batch_size)
    if batches < of:
        parts = (
            f"{count} images" if batch_size == 1 else f"{batches} batches of {batch_size} images"
        )
        raise UserError(
            f"data.shards: {of} shards for {parts} leave some empty; set it to {max(batches, 1)} or less"
        )
    return slice(*(min(edge * batches // of * batch_size, count) for edge in (index, index + 1)))


def shard_attributes(
    path: Path | str, attributes: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Attributes of the file `path`: those of the whole with what is its own, under `shard` where it is one of several."""
    index, of = shard_of(path)
    return (
        {**attributes, **own}
        if of == 1
        else {**attributes, "shard": {"index": index, "of": of, **own}}
    )


class ShardedArrays:
    """The arrays of a folder of shards as one, row after row; read as `Arrays` are.

    Raises:
        UserError: a shard is missing, truncated, or not made as the others are; names it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.files = [Arrays(file) for file in _shard_files(self.path)]
        common = [
            {key: value for key, value in file.attributes.items() if key != "shard"}
            for file in self.files
        ]
        for file, attributes in zip(self.files, common, strict=True):
            self._check(file, attributes, common[0])
        counts = [file.shape(file.keys()[0])[0] for file in self.files]
        self.attributes: dict[str, Any] = Attributes(
            self.path,
            _merged(common[0], [file.attributes.get("shard", {}) for file in self.files], counts),
        )

    def __contains__(self, name: str) -> bool:
        return name in self.files[0]

    def keys(self) -> list[str]:
        """Names of the arrays."""
        return self.files[0].keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array over all shards."""
        return (sum(file.shape(name)[0] for file in self.files), *self.files[0].shape(name)[1:])

    def dtype(self, name: str) -> np.dtype:
        """Type of an array's elements."""
        return self.files[0].dtype(name)

    def rows(
        self, name: str, indices: np.ndarray | slice, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A copy of the rows `indices` (int64 `[B]`, or a slice of step 1) of an array, `[B, ...]` as stored; into `out` where given."""
        return read_rows(
            [file.handle() for file in self.files],
            [file.entry(name) for file in self.files],
            indices,
            out,
        )

    @property
    def fingerprint(self) -> str:
        """Hash of the shapes and attributes of the whole, as of one file."""
        return layout_key(
            {name: (self.shape(name), self.dtype(name)) for name in self.keys()}, self.attributes
        )

    def _check(
        self, file: Arrays, attributes: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> None:
        first = self.files[0]
        different = sorted(
            key for key in {*attributes, *wanted} if attributes.get(key) != wanted.get(key)
        )
        if different:
            values = ", ".join(
                f"`{key}` {_short(attributes.get(key))} instead of {_short(wanted.get(key))}"
                for key in different
            )
            raise UserError(
                f"{file.path}: not made as {first.path.name} is: {values}; delete it and make it again"
            )
        named, said = shard_of(file.path), file.attributes.get("shard", {})
        if (said.get("index"), said.get("of")) != named:
            raise UserError(
                f"{file.path}: is shard {said.get('index')} of {said.get('of')}, whatever its name says; delete it and make it again"
            )
        for name in {*file.keys(), *first.keys()}:
            if (
                name not in file
                or name not in first
                or (file.shape(name)[1:], file.dtype(name))
                != (first.shape(name)[1:], first.dtype(name))
            ):
                raise UserError(
                    f"{file.path}: its array `{name}` is not as that of {first.path.name}; delete it and make it again"
                )


StoredArrays = Arrays | ShardedArrays


def open_arrays(path: Path | str, kind: Kind | None = None, check: bool = True) -> StoredArrays:
    """The arrays of a file, or of a folder of shards.

    Args:
        path: file or folder.
        kind: what it has to hold; None: anything.
        check: compare all rows with their checksums, once for each file; later, unchanged files are opened at once.

    Raises:
        UserError: a file is missing, truncated, changed since it was written, of another kind, or not made as the others are; names it.
    """
    path = Path(path)
    try:
        files = _shard_files(path) if _is_folder(path) else [path]
        arrays = Arrays(files[0]) if len(files) == 1 else ShardedArrays(path)
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
    ):  # what the attributes of a damaged shard can lead to
        for file in _shard_files(path):
            verify(file)
        raise
    for file in (arrays.files if isinstance(arrays, ShardedArrays) else [arrays]) if check else ():
        verify(file.path)
    if kind:
        require_kind(arrays, kind)
    return arrays


def is_sharded(path: Path | str) -> bool:
    """Whether `path` is a folder of shards."""
    return _is_folder(Path(path)) and any(SHARD.fullmatch(name) for name in _names_in(Path(path)))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError as error:
        raise UserError(f"{path}: may not be read (permission denied); make it readable") from error


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(file.name for file in folder.iterdir())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}); make it readable"
        ) from error


def _shard_files(folder: Path) -> Sequence[Path]:
    found = [name for name in _names_in(folder) if SHARD.fullmatch(name)]
    if not found:
        raise UserError(
            f"{folder}: holds no shards (shard-00000-of-...); run the stage that makes them"
        )
    counts = sorted({shard_of(name)[1] for name in found})
    if len(counts) > 1:
        raise UserError(
            f"{folder}: holds shards of different counts ({', '.join(map(str, counts))} in all); delete those that `data.shards` does not mean"
        )
    wanted = [shard_name(index, counts[0]) for index in range(counts[0])]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{folder / missing[0]}: missing ({len(missing)} of {counts[0]} shards are); run the stage that makes it"
        )
    return [folder / name for name in wanted]


def _merged(
    common: Mapping[str, Any], own: Sequence[Mapping[str, Any]], counts: Sequence[int]
) -> dict[str, Any]:
    """Attributes of the whole: the common ones, the mean of the shards' errors and the worst of them, and the images without those left out."""
    merged = without(common, [index for part in own for index in part.get("skipped", [])])
    if all("error" in part for part in own):
        mean = sum(
            part["error"]["mean"] * count for part, count in zip(own, counts, strict=True)
        ) / sum(counts)
        merged["error"] = {"mean": mean, "worst": max(part["error"]["worst"] for part in own)}
    return merged


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:20]}..."
