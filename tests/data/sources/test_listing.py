"""Listed data: no system files in any kind of source, no duplicates, no silent omissions."""

import io
import json
import os
import random
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from vrpo.config.data import DataOptions
from vrpo.data.sources import open_source
from vrpo.data.sources.listing import files_below, is_litter
from vrpo.errors import UserError

from tests.fixtures.sources import (
    CLASSES,
    FILES,
    SIDE,
    WRITERS,
    a_link_to_itself,
    a_link_to_nothing,
    a_pipe,
    an_empty_file,
    options,
    write_folder,
    write_parquet,
    write_tars,
    write_zip,
)

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(
    58
)  # what a Mac writes beside each file
PNG = FILES[f"{CLASSES[0]}/{CLASSES[0]}_0.JPEG"]


# ---- litter --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "._x.png",
        "a/._x.png",
        "__MACOSX/train/c/._x.png",
        ".DS_Store",
        "a/Thumbs.db",
        ".ipynb_checkpoints/x.png",
        "a/.git/x.png",
        "@eaDir/x.png",
        "thumbs.db",
    ],
)
def test_litter(path):
    assert is_litter(path)


@pytest.mark.parametrize(
    "path",
    ["a/x.png", "./a/x.png", "../a/x.png", "a.b/x..png", "_a/__x.png", "n01440764/DS_Store.png"],
)
def test_no_litter(path):
    assert not is_litter(path)


def litter_in_folder(root):
    for name in [
        f"._{CLASSES[0]}",
        ".DS_Store",
        "Thumbs.db",
        f"{CLASSES[0]}/._{CLASSES[0]}_0.JPEG",
        f"{CLASSES[1]}/.hidden.png",
        "notes.txt",
    ]:
        (root / name).write_bytes(APPLE_DOUBLE)
    for name in [
        ".ipynb_checkpoints",
        "__MACOSX",
        "@eaDir",
        ".Trashes",
        f"{CLASSES[2]}/.ipynb_checkpoints",
        f"{CLASSES[2]}/@eaDir",
    ]:
        (root / name).mkdir()
        (root / name / "x-checkpoint.png").write_bytes(PNG)


def litter_in_zip(path):
    with zipfile.ZipFile(path, "a") as archive:
        for name in FILES:
            archive.writestr(f"__MACOSX/train/{name.replace('/', '/._')}", APPLE_DOUBLE)
        for name in [
            "__MACOSX/._train",
            "train/.DS_Store",
            "train/.ipynb_checkpoints/x.png",
            f"train/{CLASSES[0]}/._x.png",
            f"train/{CLASSES[0]}/Thumbs.db",
        ]:
            archive.writestr(name, PNG)


def litter_in_tars(root):
    for path in root.glob("*.tar"):
        with tarfile.open(path) as archive:
            members = [(member, archive.extractfile(member).read()) for member in archive]
        with tarfile.open(path, "w") as archive:
            for member, content in members:
                beside = tarfile.TarInfo(f"._{member.name}")  # bsdtar puts it before each file
                beside.size = len(APPLE_DOUBLE)
                archive.addfile(beside, io.BytesIO(APPLE_DOUBLE))
                archive.addfile(member, io.BytesIO(content))
    (root / f"._{path.name}").write_bytes(APPLE_DOUBLE)
    (root / ".DS_Store").write_bytes(APPLE_DOUBLE)


def litter_in_parquet(root):
    for path in list(root.glob("*.parquet")):
        (root / f"._{path.name}").write_bytes(APPLE_DOUBLE)
    (root / ".ipynb_checkpoints").mkdir()
    (root / ".ipynb_checkpoints" / "x-checkpoint.parquet").write_bytes(APPLE_DOUBLE)


LITTER = {
    "folder": litter_in_folder,
    "ilsvrc": lambda root: litter_in_folder(root / "ILSVRC/Data/CLS-LOC/train"),
    "zip": litter_in_zip,
    "webdataset": litter_in_tars,
    "parquet": litter_in_parquet,
}


@pytest.mark.parametrize("kind", LITTER)
def test_litter_changes_no_source(kind, tmp_path):
    root = write_zip(tmp_path / "a.zip", "train/") if kind == "zip" else WRITERS[kind](tmp_path)
    clean = open_source(options(kind, root))
    LITTER[kind](root)
    source = open_source(options(kind, root))
    assert source.classes == clean.classes and len(source) == len(FILES)
    assert source.describe() == clean.describe()
    for index in range(len(source)):
        assert source.read(index).any()


# ---- class folders that should not be there ------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_surplus_folders_are_named(kind, tmp_path):
    root = write_folder(tmp_path / "train")
    (root / "backup").mkdir()
    (root / "backup" / "x.png").write_bytes(PNG)
    if kind == "zip":
        root = Path(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path, "train"))
    with pytest.raises(
        UserError,
        match=(
            r"data\.num_classes: 3, but .* has 4 classes .*`backup` 1, `n01440764` 4, "
            r".*; set it to 4 or fix"
        ),
    ) as error:
        open_source(options(kind, root))
    assert "\n" not in str(error.value)


def test_of_many_classes_those_unlike_the_others_are_named(tmp_path):
    for number in range(60):
        (tmp_path / f"n{number:08d}").mkdir()
        (tmp_path / f"n{number:08d}" / "x.png").write_bytes(PNG)
    (tmp_path / "old images").mkdir()
    for number in range(3):
        (tmp_path / "old images" / f"{number}.png").write_bytes(PNG)
    with pytest.raises(
        UserError,
        match=(
            r"60, but .* has 61 classes .*\(surplus may be, with so many images: `old "
            r"images` 3\)"
        ),
    ):
        open_source(DataOptions(source="folder", root=str(tmp_path), num_classes=60))


def test_folders_that_are_not_in_the_index_are_named(tmp_path):
    root = write_folder(tmp_path / "train")
    (tmp_path / "index.json").write_text(json.dumps(CLASSES[:1]))
    with pytest.raises(
        UserError,
        match=(
            rf"class `{CLASSES[1]}`, `{CLASSES[2]}` of .* is not in it \(2 are surplus, "
            rf"0 missing\)"
        ),
    ):
        open_source(options("folder", root, class_index=str(tmp_path / "index.json")))


def test_a_label_that_is_no_class(tmp_path):
    root = write_tars(tmp_path / "t")
    for label in (2_000_000_000, 10**30):
        with tarfile.open(root / "000001.tar", "w") as archive:
            for name, content in (("a.cls", str(label).encode()), ("a.jpg", PNG)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        with pytest.raises(
            UserError,
            match=(
                r"(label 2000000000, which is no number of a class|000001\.tar: "
                r"`a\.cls` holds `10+\.\.\.`; a label is)"
            ),
        ) as error:
            open_source(options("webdataset", root))
        assert "\n" not in str(error.value)


# ---- archives ------------------------------------------------------------------------------------


ENDINGS = {"zip": ".zip", "webdataset": ".tar", "parquet": ".parquet"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ENDINGS)
@pytest.mark.parametrize(
    "make",
    [a_link_to_nothing, a_link_to_itself, a_pipe, an_empty_file, os.mkdir],
    ids=lambda make: make.__name__,
)
def test_archives_that_are_no_files(kind, make, tmp_path):
    root = WRITERS[kind](tmp_path)
    place = (
        root.parent / "b.zip"
        if kind == "zip"
        else root / f"{'train-x' if kind == 'parquet' else 'x'}{ENDINGS[kind]}"
    )
    make(place)
    with pytest.raises(UserError, match=rf"{place.name}.* not a readable") as error:
        open_source(options(kind, place if kind == "zip" else root))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", ["b.jpg", "b.cls"])
def test_links_in_tars_are_refused(tmp_path, kind, name):
    """GNU tar packs the second of two hard links as one.

    Without it, its image would be missing.
    """
    root = write_tars(tmp_path / "t")
    with tarfile.open(root / "000000.tar", "a") as archive:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = kind, "00000000.jpg"
        archive.addfile(link)
    with pytest.raises(
        UserError, match=rf"000000\.tar: `{name}` is a link or no file; pack the files themselves"
    ):
        open_source(options("webdataset", root))


WRITERS_OF_ONE = {
    "zip": lambda path: write_zip(path / "a.zip"),
    "webdataset": lambda path: write_tars(path / "t", 1),
    "parquet": lambda path: write_parquet(path / "p"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", WRITERS_OF_ONE)
def test_damaged_archives(kind, tmp_path):
    """Random bytes: each image is read, or is unreadable with a line that names it.

    Otherwise the archive is refused in one line.
    """
    root = WRITERS_OF_ONE[kind](tmp_path)
    file = root if root.is_file() else sorted(root.iterdir())[0]
    whole, rng = file.read_bytes(), random.Random(kind)
    headers = [
        place
        for place in range(len(whole))
        if whole[place : place + 4] in (b"PK\1\2", b"PK\5\6", b"PK\3\4")
    ] or range(0, len(whole), 512)
    refused = unreadable = read = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.choice(
                (
                    rng.randrange(len(whole)),
                    len(whole) - 1 - rng.randrange(400),
                    min(rng.choice(headers) + rng.randrange(60), len(whole) - 1),
                )
            )
            content[at] = rng.randrange(256)
        file.write_bytes(content[: rng.randrange(len(content))] if rng.random() < 0.05 else content)
        try:
            source = open_source(options(kind, root))
            for index in range(len(source)):
                try:
                    assert source.read(index).shape == (SIDE, SIDE, 3)
                    read += 1
                except UserError as error:
                    assert "cannot be read as an image" in str(error) and "\n" not in str(error)
                    unreadable += 1
        except UserError as error:
            assert "\n" not in str(error) and "cannot be read as an image" not in str(error)
            refused += 1
    assert refused and unreadable and read


def test_files_below(tmp_path):
    write_folder(tmp_path)
    litter_in_folder(tmp_path)
    found = [file.relative_to(tmp_path).as_posix() for file in files_below(tmp_path)]
    assert found == ["notes.txt", *sorted(FILES)]
