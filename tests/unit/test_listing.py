"""What is listed as data: no litter of systems in any kind of source, nothing twice, and nothing passed over without a word."""

import contextlib
import io
import json
import os
import random
import shutil
import socket
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_sources import CLASSES, FILES, SIDE, WRITERS, options, write_folder, write_parquet, write_tars, write_zip

from vrpo.config.options import DataOptions
from vrpo.data.shards import open_arrays
from vrpo.data.sources import open_source
from vrpo.data.sources.listing import files_below, is_litter
from vrpo.errors import UserError
from vrpo.prepare.images import write_images
from vrpo.prepare.manifest import write_manifest

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(58)  # what a Mac writes beside each file
PNG = FILES[f"{CLASSES[0]}/{CLASSES[0]}_0.JPEG"]


# ---- litter ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["._x.png", "a/._x.png", "__MACOSX/train/c/._x.png", ".DS_Store", "a/Thumbs.db", ".ipynb_checkpoints/x.png", "a/.git/x.png", "@eaDir/x.png", "thumbs.db"],
)
def test_litter(path):
    assert is_litter(path)


@pytest.mark.parametrize("path", ["a/x.png", "./a/x.png", "../a/x.png", "a.b/x..png", "_a/__x.png", "n01440764/DS_Store.png"])
def test_no_litter(path):
    assert not is_litter(path)


def litter_in_folder(root):
    for name in [f"._{CLASSES[0]}", ".DS_Store", "Thumbs.db", f"{CLASSES[0]}/._{CLASSES[0]}_0.JPEG", f"{CLASSES[1]}/.hidden.png", "notes.txt"]:
        (root / name).write_bytes(APPLE_DOUBLE)
    for name in [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trashes", f"{CLASSES[2]}/.ipynb_checkpoints", f"{CLASSES[2]}/@eaDir"]:
        (root / name).mkdir()
        (root / name / "x-checkpoint.png").write_bytes(PNG)


def litter_in_zip(path):
    with zipfile.ZipFile(path, "a") as archive:
        for name in FILES:
            archive.writestr(f"__MACOSX/train/{name.replace('/', '/._')}", APPLE_DOUBLE)
        for name in ["__MACOSX/._train", "train/.DS_Store", "train/.ipynb_checkpoints/x.png", f"train/{CLASSES[0]}/._x.png", f"train/{CLASSES[0]}/Thumbs.db"]:
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


# ---- class folders that should not be there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_surplus_folders_are_named(kind, tmp_path):
    root = write_folder(tmp_path / "train")
    (root / "backup").mkdir()
    (root / "backup" / "x.png").write_bytes(PNG)
    if kind == "zip":
        root = Path(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path, "train"))
    with pytest.raises(UserError, match=r"data\.num_classes: 3, but .* has 4 classes .*`backup` 1, `n01440764` 4, .*; set it to 4 or mend") as error:
        open_source(options(kind, root))
    assert "\n" not in str(error.value)


def test_of_many_classes_those_unlike_the_others_are_named(tmp_path):
    for number in range(60):
        (tmp_path / f"n{number:08d}").mkdir()
        (tmp_path / f"n{number:08d}" / "x.png").write_bytes(PNG)
    (tmp_path / "old images").mkdir()
    for number in range(3):
        (tmp_path / "old images" / f"{number}.png").write_bytes(PNG)
    with pytest.raises(UserError, match=r"60, but .* has 61 classes .*\(surplus may be, with so many images: `old images` 3\)"):
        open_source(DataOptions(source="folder", root=str(tmp_path), num_classes=60))


def test_folders_that_are_not_in_the_index_are_named(tmp_path):
    root = write_folder(tmp_path / "train")
    (tmp_path / "index.json").write_text(json.dumps(CLASSES[:1]))
    with pytest.raises(UserError, match=rf"class `{CLASSES[1]}`, `{CLASSES[2]}` of .* is not in it \(2 are surplus, 0 missing\)"):
        open_source(options("folder", root, class_index=str(tmp_path / "index.json")))


def test_a_label_that_is_no_class(tmp_path):
    root = write_tars(tmp_path / "t")
    for label in (2_000_000_000, 10**30):
        with tarfile.open(root / "000001.tar", "w") as archive:
            for name, content in (("a.cls", str(label).encode()), ("a.jpg", PNG)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        with pytest.raises(UserError, match=r"(label 2000000000, which is no number of a class|000001\.tar: `a\.cls` holds `10+\.\.\.`; a label is)") as error:
            open_source(options("webdataset", root))
        assert "\n" not in str(error.value)


# ---- files that are none ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def unprivileged():
    """Permissions hold for root only when it is someone else; the folder that is given can be entered by all."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path, _, _ in os.walk(folder):
            Path(path).chmod(0o777)
        shutil.rmtree(folder)


def a_link_to_nothing(path):
    path.symlink_to("/nowhere/x.png")


def a_link_to_itself(path):
    path.symlink_to(path.name)


def a_pipe(path):
    os.mkfifo(path)


def a_device(path):
    path.symlink_to("/dev/zero")


def a_socket(path):
    at = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(at)


def an_empty_file(path):
    path.touch()


def a_forbidden_file(path):
    path.write_bytes(PNG)
    path.chmod(0)


NO_FILES = [a_link_to_nothing, a_link_to_itself, a_pipe, a_device, a_socket, an_empty_file, a_forbidden_file]


def small_options(root, **other):
    return DataOptions(source="folder", root=str(root), resolution=SIDE, num_classes=len(CLASSES), **other)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", NO_FILES, ids=lambda make: make.__name__)
def test_what_is_no_file_is_listed_as_unreadable(make):
    with unprivileged() as folder:
        root = write_folder(folder / "train")
        make(root / CLASSES[1] / "x.png")
        with pytest.raises(UserError, match=rf"lists 1 of {len(FILES) + 1} images that cannot be read, first .*{CLASSES[1]}/x\.png \(.+\); restore") as error:
            write_images(small_options(root), folder / "images.h5")
        assert "\n" not in str(error.value)
        skipping = small_options(root, skip_unreadable=True)
        write_images(skipping, folder / "images.h5")
        write_manifest(skipping, folder / "images.h5", folder / "images.json")
        manifest = json.loads((folder / "images.json").read_text())
        assert manifest["count"] == len(FILES) and [image["path"] for image in manifest["unreadable"]] == [str(root / CLASSES[1] / "x.png")]


@pytest.mark.parametrize("name", ["two\nlines.png", os.fsdecode(b"latin-\xe9.png"), "tab\t.png"])
def test_odd_names_stay_in_one_line(tmp_path, name):
    root = write_folder(tmp_path / "train")
    (root / CLASSES[0] / name).touch()
    with pytest.raises(UserError, match=r"lists 1 of 13 images") as error:
        write_images(small_options(root), tmp_path / "images.h5")
    assert str(error.value).isprintable()
    (root / CLASSES[0] / name).unlink()
    (root / name.removesuffix(".png")).mkdir()
    with pytest.raises(UserError, match="holds no images") as error:
        open_source(small_options(root))
    assert str(error.value).isprintable()


def test_a_restored_link_is_read(tmp_path):
    root = write_folder(tmp_path / "train")
    (root / CLASSES[0] / "x.png").symlink_to(tmp_path / "x.png")
    with pytest.raises(UserError, match="lists 1 of 13"):
        write_images(small_options(root), tmp_path / "images.h5")
    (tmp_path / "x.png").write_bytes(PNG)
    write_images(small_options(root), tmp_path / "images.h5")
    images = open_arrays(tmp_path / "images.h5")
    assert images.attributes["count"] == 13
    np.testing.assert_array_equal(*images.rows("images", np.array([0, 4])))  # the same picture


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    root = write_folder(tmp_path / "train")
    (root / CLASSES[0] / "x.png").mkdir()
    (root / CLASSES[0] / "x.png" / "inside.png").write_bytes(PNG)
    source = open_source(small_options(root))
    assert len(source) == len(FILES) + 1 and f"{CLASSES[0]}/x.png/inside.png" in list(source.files)


def test_linked_class_folders_are_read(tmp_path):
    root = write_folder(tmp_path / "elsewhere")
    (tmp_path / "train").mkdir()
    for name in CLASSES:
        (tmp_path / "train" / name).symlink_to(root / name)
    assert len(open_source(small_options(tmp_path / "train"))) == len(FILES)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", ["loop", f"{CLASSES[0]}/loop", f"{CLASSES[0]}/deep/loop"])
@pytest.mark.parametrize("target", [".", ".."])
def test_links_in_a_circle_are_refused(tmp_path, place, target):
    """Followed, they list each image forty times."""
    root = write_folder(tmp_path / "train")
    (root / place).parent.mkdir(exist_ok=True)
    if target == "." or "/" in place:
        (root / place).symlink_to(target)
    else:
        (root / place).symlink_to("../train")
    with pytest.raises(UserError, match=r"loop.*: is a link to a folder that holds it, .*; remove the link"):
        open_source(small_options(root))


@pytest.mark.parametrize("place", ["n09999999", f"{CLASSES[0]}/part2"])
@pytest.mark.parametrize("target", ["/nowhere", "self"])
def test_links_to_missing_folders_are_refused(tmp_path, place, target):
    root = write_folder(tmp_path / "train")
    (root / place).symlink_to((root / place).name if target == "self" else target)
    with pytest.raises(UserError, match=rf"{place}: is a link to nothing that can be reached; restore"):
        open_source(small_options(root))
    (root / place).unlink()
    (root / f"{place}.txt").symlink_to("/nowhere")  # no folder, by its name
    assert len(open_source(small_options(root))) == len(FILES)


@pytest.mark.parametrize("place", [".", CLASSES[1], f"{CLASSES[1]}/deep"])
def test_folders_that_cannot_be_listed_are_refused(place):
    with unprivileged() as folder:
        root = write_folder(folder / "train")
        (root / CLASSES[1] / "deep").mkdir()
        (root / place).chmod(0)
        with pytest.raises(UserError, match=r"train.*: cannot be listed \(Permission denied\); make it readable") as error:
            open_source(small_options(root))
        assert str(root / place) in str(error.value)


@pytest.mark.parametrize("kind", ["folder", "ilsvrc", "zip", "webdataset", "parquet"])
def test_roots_below_a_closed_folder(kind):
    with unprivileged() as folder:
        (folder / "closed").mkdir()
        root = WRITERS[kind](folder / "closed")
        (folder / "closed").chmod(0)
        with pytest.raises(UserError, match=r"data\.root: .*Permission denied") as error:
            open_source(options(kind, root))
        assert "\n" not in str(error.value)


# ---- archives -----------------------------------------------------------------------------------------------------------------------


ENDINGS = {"zip": ".zip", "webdataset": ".tar", "parquet": ".parquet"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ENDINGS)
@pytest.mark.parametrize("make", [a_link_to_nothing, a_link_to_itself, a_pipe, an_empty_file, os.mkdir], ids=lambda make: make.__name__)
def test_archives_that_are_no_files(kind, make, tmp_path):
    root = WRITERS[kind](tmp_path)
    place = root.parent / "b.zip" if kind == "zip" else root / f"{'train-x' if kind == 'parquet' else 'x'}{ENDINGS[kind]}"
    make(place)
    with pytest.raises(UserError, match=rf"{place.name}.* not a readable") as error:
        open_source(options(kind, place if kind == "zip" else root))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", ["b.jpg", "b.cls"])
def test_links_in_tars_are_refused(tmp_path, kind, name):
    """GNU tar packs the second of two hard links as one; passed over, its image would be missing."""
    root = write_tars(tmp_path / "t")
    with tarfile.open(root / "000000.tar", "a") as archive:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = kind, "00000000.jpg"
        archive.addfile(link)
    with pytest.raises(UserError, match=rf"000000\.tar: `{name}` is a link or no file; pack the files themselves"):
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
    """Random bytes: each image is read, or is unreadable with a line that names it; or the archive is refused in one line."""
    root = WRITERS_OF_ONE[kind](tmp_path)
    file = root if root.is_file() else sorted(root.iterdir())[0]
    whole, rng = file.read_bytes(), random.Random(kind)
    headers = [place for place in range(len(whole)) if whole[place : place + 4] in (b"PK\1\2", b"PK\5\6", b"PK\3\4")] or range(0, len(whole), 512)
    refused = unreadable = read = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.choice((rng.randrange(len(whole)), len(whole) - 1 - rng.randrange(400), min(rng.choice(headers) + rng.randrange(60), len(whole) - 1)))
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
