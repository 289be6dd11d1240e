"""One set of arrays, in one file or in a folder of shards that independent jobs wrote.

Both are read alike: `latents.h5`, or `latents/shard-00000-of-00004.h5` and so on. All shards have
the attributes of the whole. Each has its own ones under `shard`: `index`, `of`, and perhaps
`error` (of stored features) and `skipped` (unreadable images).
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
    """(index, of) in a file's name; (0, 1) for any other name, which is the whole.

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
    """Rows of `count` that the file `path` holds.

    Shards get equal parts in whole batches, so that their batches, and bits, are those of one file.

    Raises:
        UserError: there are fewer batches than shards.
    """
    index, of = shard_of(path)
    batches = -(-count // batch_size)
    if batches < of:
        parts = f"{batches} batches of {batch_size}" if batch_size > 1 else f"{count}"
        raise UserError(
            f"data.shards: {of} shards for {parts} images leave some empty; "
            f"set it to {max(batches, 1)} or less"
        )
    return slice(*(min(edge * batches // of * batch_size, count) for edge in (index, index + 1)))


def shard_attributes(
    path: Path | str, attributes: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Attributes of the file `path`: those of the whole, and its `own` (of a shard, in `shard`)."""
    index, of = shard_of(path)
    if of == 1:
        return {**attributes, **own}
    return {**attributes, "shard": {"index": index, "of": of, **own}}


class ShardedArrays:
    """The arrays of a folder of shards as one, row after row; read as `Arrays` are.

    Raises:
        UserError: a shard is missing, truncated, or made differently; names it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.files = [Arrays(file) for file in _shard_files(self.path)]
        common, own = [], []
        for file in self.files:
            attributes = dict(file.attributes)
            own.append(attributes.pop("shard", {}))
            common.append(attributes)
            self._check(file, attributes, common[0])
        counts = [file.shape(file.keys()[0])[0] for file in self.files]
        merged = _merged(common[0], own, counts)
        self.attributes: dict[str, Any] = Attributes(self.path, merged)

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
        """Copy of rows of an array, as `Arrays.rows`."""
        files = [file.handle() for file in self.files]
        return read_rows(files, [file.entry(name) for file in self.files], indices, out)

    @property
    def fingerprint(self) -> str:
        """Hash of the shapes and attributes of the whole, as of one file."""
        shapes = {name: (self.shape(name), self.dtype(name)) for name in self.keys()}
        return layout_key(shapes, self.attributes)

    def _check(
        self, file: Arrays, attributes: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> None:
        first = self.files[0]
        keys = sorted({*attributes, *wanted})
        different = [key for key in keys if attributes.get(key) != wanted.get(key)]
        if different:
            values = ", ".join(
                f"`{key}` {_short(attributes.get(key))} instead of {_short(wanted.get(key))}"
                for key in different
            )
            raise UserError(
                f"{file.path}: not made as {first.path.name} is: {values}; delete it and rebuild it"
            )
        own = file.attributes.get("shard", {})
        index, of = own.get("index"), own.get("of")
        if (index, of) != shard_of(file.path):
            raise UserError(
                f"{file.path}: is shard {index} of {of}, whatever its name says; "
                "delete it and rebuild it"
            )
        for name in {*file.keys(), *first.keys()}:
            if _row_form(file, name) != _row_form(first, name):
                raise UserError(
                    f"{file.path}: its array `{name}` is not as that of {first.path.name}; "
                    "delete it and rebuild it"
                )


StoredArrays = Arrays | ShardedArrays


def open_arrays(path: Path | str, kind: Kind | None = None, check: bool = True) -> StoredArrays:
    """The arrays of a file, or of a folder of shards.

    Args:
        path: file or folder.
        kind: required contents; None: anything.
        check: compare all rows with their checksums, once for each unchanged file.

    Raises:
        UserError: a file is missing, truncated, changed since it was written, of another kind, or
            made differently from the others; names it.
    """
    path = Path(path)
    try:
        files = _shard_files(path) if _is_folder(path) else [path]
        arrays = Arrays(files[0]) if len(files) == 1 else ShardedArrays(path)
    except (KeyError, TypeError, AttributeError, ValueError):  # damaged attributes of a shard
        for file in _shard_files(path):
            verify(file)
        raise
    if check:
        for file in files:
            verify(file)
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
            f"{folder}: holds shards of different counts ({', '.join(map(str, counts))} in all); "
            "delete those that `data.shards` does not mean"
        )
    wanted = [shard_name(index, counts[0]) for index in range(counts[0])]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{folder / missing[0]}: missing ({len(missing)} of {counts[0]} shards are); "
            "run the stage that makes it"
        )
    return [folder / name for name in wanted]


def _merged(
    common: Mapping[str, Any], own: Sequence[Mapping[str, Any]], counts: Sequence[int]
) -> dict[str, Any]:
    """Attributes of the whole: the common ones, the merged `error`, and all images left out."""
    merged = without(common, [index for part in own for index in part.get("skipped", [])])
    if all("error" in part for part in own):
        errors = [part["error"] for part in own]
        total = sum(error["mean"] * count for error, count in zip(errors, counts, strict=True))
        worst = max(error["worst"] for error in errors)
        merged["error"] = {"mean": total / sum(counts), "worst": worst}
    return merged


def _row_form(file: Arrays, name: str) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and type of one row of an array; None where there is none."""
    return (file.shape(name)[1:], file.dtype(name)) if name in file else None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:20]}..."
