"""Labels and names of classes: the sorted names of folders, or a class-index file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vrpo.data.sources.listing import printable
from vrpo.errors import UserError

NAMED = 20  # classes that a message names
MOST_CLASSES = 1_000_000


class ClassIndex(NamedTuple):
    """Classes in the order of their labels."""

    ids: list[str]  # names of folders, e.g. `n01440764`
    names: list[str]  # for people, e.g. `tench`


def read_class_index(path: Path | str) -> ClassIndex:
    """Read a class-index file.

    JSON as Keras' `imagenet_class_index.json` (`{"0": ["n01440764", "tench"], ...}`, or
    `{"0": "tench"}`, or a list), or text with a line for each class, such as ILSVRC's
    `LOC_synset_mapping.txt` (`n01440764 tench, Tinca tinca`).

    Raises:
        UserError: it is missing, or none of these.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"data.class_index: {path} cannot be read ({error}); "
            "give a JSON or text file of the classes in the order of their labels"
        ) from error
    try:
        if path.suffix == ".json":
            rows = _rows(json.loads(text))
        else:
            rows = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
        index = ClassIndex([row[0] for row in rows], [row[-1] for row in rows])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f'data.class_index: {path} is not of the form {{"0": ["n01440764", "tench"], ...}} '
            f"({error}); labels run from 0 without gaps"
        ) from error
    if not index.ids or len(set(index.ids)) != len(index.ids):
        raise UserError(
            f"data.class_index: {path} names a class twice, or none; each has one label"
        )
    return index


def _rows(content: object) -> list[list[str]]:
    if isinstance(content, Mapping):
        content = [content[str(label)] for label in range(len(content))]
    return [[row] if isinstance(row, str) else [str(part) for part in row] for row in content]


def labels_by_name(
    found: Iterable[str], index: ClassIndex | None, where: str
) -> tuple[dict[str, int], list[str]]:
    """Labels of class folders, and names of all classes by label.

    The classes are those of `index`, or the sorted folders.

    Raises:
        UserError: a folder is no class of the index, or a class has no folder.
    """
    ordered = sorted(found)
    if index is None:
        return {name: label for label, name in enumerate(ordered)}, ordered
    surplus = [name for name in ordered if name not in set(index.ids)]
    missing = [name for name in index.ids if name not in set(ordered)]
    if surplus or missing:
        first = f"{_named(surplus)} of {where}" if surplus else _named(missing)
        raise UserError(
            f"data.class_index: class {first} is not in {'it' if surplus else where} "
            f"({len(surplus)} are surplus, {len(missing)} missing); give the index of this data set"
        )
    return {name: label for label, name in enumerate(index.ids)}, list(index.names)


def names_of_labels(labels: np.ndarray, index: ClassIndex | None, where: str) -> list[str]:
    """Names of the classes of labels int64 `[N]`: those of `index`, or the numbers.

    Raises:
        UserError: a label is negative, or beyond the index.
    """
    lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=-1))
    if lowest < 0:
        raise UserError(
            f"{where}: holds the label {lowest}; "
            "training images have labels from 0 up, this may be a test set"
        )
    if index is None and highest >= MOST_CLASSES:
        raise UserError(
            f"{where}: holds the label {highest}, which is no number of a class; "
            "fetch it again, or give `data.class_index`"
        )
    if index is None:
        return [str(label) for label in range(highest + 1)]
    if highest >= len(index.names):
        raise UserError(
            f"data.class_index: has {len(index.names)} classes, "
            f"but {where} holds the label {highest}; give the index of this data set"
        )
    return list(index.names)


def surplus_classes(classes: Sequence[str], labels: np.ndarray, wanted: int) -> str:
    """Candidates for surplus `classes` where only `wanted` are, with their numbers of images.

    Few classes are all given. Of many, those with unusual names come first (`backup` among
    `n01440764` and so on), then those with the fewest images.
    """
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    if len(classes) <= NAMED:
        what, chosen = "with so many images", list(range(len(classes)))
    else:
        forms = [_form(name) for name in classes]
        frequency = Counter(forms)
        odd = sorted(
            range(len(classes)), key=lambda label: (frequency[forms[label]], counts[label])
        )
        what = "surplus may be, with so many images"
        chosen = odd[: min(len(classes) - wanted, NAMED)]
    listed = ", ".join(f"`{printable(classes[label])}` {counts[label]:,}" for label in chosen)
    return f"{what}: {listed}"


def _form(name: str) -> str:
    return re.sub(r"\d+", "0", name)


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"`{printable(name)}`" for name in names[:NAMED])
