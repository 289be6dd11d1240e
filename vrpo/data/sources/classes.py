"""Which label a class has, and what it is called: the sorted names themselves, or a class-index file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vrpo.errors import UserError


class ClassIndex(NamedTuple):
    """Classes in the order of their labels."""

    ids: list[str]  # names of folders, e.g. `n01440764`
    names: list[str]  # for people, e.g. `tench`


def read_class_index(path: Path | str) -> ClassIndex:
    """Read a class-index file.

    JSON as Keras' `imagenet_class_index.json` (`{"0": ["n01440764", "tench"], ...}`, or `{"0": "tench"}`, or a list), or text with a line for each class, such
    as ILSVRC's `LOC_synset_mapping.txt` (`n01440764 tench, Tinca tinca`).

    Raises:
        UserError: it is missing, or none of these.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.class_index: {path} cannot be read ({error}); give a JSON or text file of the classes in the order of their labels") from error
    try:
        rows = _rows(json.loads(text)) if path.suffix == ".json" else [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
        index = ClassIndex([row[0] for row in rows], [row[-1] for row in rows])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f'data.class_index: {path} is not of the form {{"0": ["n01440764", "tench"], ...}} ({error}); labels run from 0 without gaps'
        ) from error
    if not index.ids or len(set(index.ids)) != len(index.ids):
        raise UserError(f"data.class_index: {path} names a class twice, or none; each has one label")
    return index


def _rows(content: object) -> list[list[str]]:
    values = [content[str(label)] for label in range(len(content))] if isinstance(content, Mapping) else list(content)
    return [[value] if isinstance(value, str) else [str(part) for part in value] for value in values]


def labels_by_name(found: Iterable[str], index: ClassIndex | None, where: str) -> tuple[dict[str, int], list[str]]:
    """Labels of class folders, and all classes' names by label: those of `index`, or the sorted folders.

    Raises:
        UserError: a folder is no class of the index, or a class has no folder.
    """
    ordered = sorted(found)
    if index is None:
        return {name: label for label, name in enumerate(ordered)}, ordered
    surplus = [name for name in ordered if name not in set(index.ids)]
    missing = [name for name in index.ids if name not in set(ordered)]
    if surplus or missing:
        what = f"`{surplus[0]}` of {where} is not in it" if surplus else f"`{missing[0]}` is not in {where}"
        raise UserError(f"data.class_index: class {what} ({len(surplus)} are surplus, {len(missing)} missing); give the index of this data set")
    return {name: label for label, name in enumerate(index.ids)}, list(index.names)


def names_of_labels(labels: np.ndarray, index: ClassIndex | None, where: str) -> list[str]:
    """Names of the classes of numbered labels int64 `[N]`: those of `index`, or the numbers.

    Raises:
        UserError: a label is negative, or beyond the index.
    """
    lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=-1))
    if lowest < 0:
        raise UserError(f"{where}: holds the label {lowest}; training images have labels from 0 up, this may be a test set")
    if index is None:
        return [str(label) for label in range(highest + 1)]
    if highest >= len(index.names):
        raise UserError(f"data.class_index: has {len(index.names)} classes, but {where} holds the label {highest}; give the index of this data set")
    return list(index.names)
