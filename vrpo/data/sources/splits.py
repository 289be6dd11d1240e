"""The training split of a data set whose splits are in one place."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vrpo.data.sources.listing import printable
from vrpo.errors import UserError

log = logging.getLogger(__name__)

TRAIN = "train"
SPLITS = {  # words that Hugging Face's `datasets` knows, too
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def training_files(files: Sequence[Path], root: Path) -> Sequence[Path]:
    """Files of the training split, by a word in their names (`train-00000-of-00002.parquet`).

    Files of one kind are all used.

    Raises:
        UserError: there are several splits and no training split, or files of none beside them.
    """
    splits = {path: _split_of(path.stem) for path in files}
    counts = Counter(splits.values())
    if len(counts) < 2:
        return files
    if TRAIN not in counts or None in counts:
        said = []
        for split, count in counts.items():
            first = next(path.name for path in files if splits[path] == split)
            said.append(f"{count} of {split or 'no split'} (`{printable(first)}`)")
        raise UserError(
            f"data.root: {root} holds files of several splits: {', '.join(said)}; "
            "put those to train on into a folder of their own and name it in `data.root`"
        )
    others = sorted(split for split in counts if split != TRAIN)
    log.info(
        "data.root: of the %d files in %s the %d of the training split are used; left out: %s",
        len(files),
        root,
        counts[TRAIN],
        ", ".join(f"{counts[split]} of {split}" for split in others),
    )
    return [path for path in files if splits[path] == TRAIN]


def training_folder(folders: Iterable[str], where: str) -> str | None:
    """The folder of the training split, where `folders` are splits (`train` and `val`).

    None where they are classes.

    Raises:
        UserError: they are splits without exactly one for training, or mixed with other folders.
    """
    splits = {name: _split_named(name) for name in sorted(folders)}
    found = {split for split in splits.values() if split}
    if len(found) < 2 or (TRAIN not in found and None in splits.values()):
        return None
    chosen = [name for name, split in splits.items() if split == TRAIN]
    if len(chosen) != 1 or None in splits.values():
        said = ", ".join(f"`{printable(name)}`" for name in list(splits)[:20])
        raise UserError(
            f"data.root: {where} holds splits of a data set, not classes: {said}; "
            "name the folder of the training split alone in `data.root`"
        )
    others = ", ".join(f"`{name}`" for name in splits if name != chosen[0])
    log.info("data.root: of the splits in %s, `%s` is used; left out: %s", where, chosen[0], others)
    return chosen[0]


def training_prefix(names: Sequence[str], where: str, folders: int) -> str:
    """Common prefix of the training images' names in an archive.

    It is a common folder, and that of the training split if there are several.

    Args:
        names: of all images in the archive.
        where: the archive, for messages.
        folders: levels that remain below, at least: 1 where folders are classes.

    Raises:
        UserError: as in `training_folder`.
    """
    inside = ""
    while True:
        below = [name[len(inside) :] for name in names if name.startswith(inside)]
        heads = {name.partition("/")[0] for name in below if "/" in name}
        chosen = training_folder(heads, where)
        if chosen is None and len(heads) == 1 and min(name.count("/") for name in below) > folders:
            chosen = heads.pop()
        if chosen is None:
            return inside
        inside += f"{chosen}/"


def _split_of(name: str) -> str | None:
    """Split that the words of a file name tell, if they tell one."""
    found = {SPLITS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else None


def _split_named(name: str) -> str | None:
    """Split that a folder is named after, such as `train` or `val_2`."""
    match = re.fullmatch(r"([a-z]+)[\W\d_]*", name.lower())
    return SPLITS.get(match[1]) if match else None
