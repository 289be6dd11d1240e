"""Links, pipes, devices and closed folders among images: read, or named in one line."""

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from vrpo.config.data import DataOptions
from vrpo.data.shards import open_arrays
from vrpo.data.sources import open_source
from vrpo.errors import UserError
from vrpo.prepare.images import write_images
from vrpo.prepare.manifest import write_manifest

from tests.fixtures.permissions import unprivileged
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
)

PNG = FILES[f"{CLASSES[0]}/{CLASSES[0]}_0.JPEG"]


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


def a_forbidden_file(path):
    path.write_bytes(PNG)
    path.chmod(0)


NO_FILES = [
    a_link_to_nothing,
    a_link_to_itself,
    a_pipe,
    a_device,
    a_socket,
    an_empty_file,
    a_forbidden_file,
]


def small_options(root, **other):
    return DataOptions(
        source="folder", root=str(root), resolution=SIDE, num_classes=len(CLASSES), **other
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", NO_FILES, ids=lambda make: make.__name__)
def test_what_is_no_file_is_listed_as_unreadable(make):
    with unprivileged() as folder:
        root = write_folder(folder / "train")
        make(root / CLASSES[1] / "x.png")
        with pytest.raises(
            UserError,
            match=(
                rf"lists 1 of {len(FILES) + 1} images that cannot be read, first "
                rf".*{CLASSES[1]}/x\.png \(.+\); restore"
            ),
        ) as error:
            write_images(small_options(root), folder / "images.h5")
        assert "\n" not in str(error.value)
        skipping = small_options(root, skip_unreadable=True)
        write_images(skipping, folder / "images.h5")
        write_manifest(skipping, folder / "images.h5", folder / "images.json")
        manifest = json.loads((folder / "images.json").read_text())
        assert manifest["count"] == len(FILES) and [
            image["path"] for image in manifest["unreadable"]
        ] == [str(root / CLASSES[1] / "x.png")]


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
    with pytest.raises(
        UserError, match=r"loop.*: is a link to a folder that holds it, .*; remove the link"
    ):
        open_source(small_options(root))


@pytest.mark.parametrize("place", ["n09999999", f"{CLASSES[0]}/part2"])
@pytest.mark.parametrize("target", ["/nowhere", "self"])
def test_links_to_missing_folders_are_refused(tmp_path, place, target):
    root = write_folder(tmp_path / "train")
    (root / place).symlink_to((root / place).name if target == "self" else target)
    with pytest.raises(
        UserError, match=rf"{place}: is a link to nothing that can be reached; restore"
    ):
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
        with pytest.raises(
            UserError, match=r"train.*: cannot be listed \(Permission denied\); make it readable"
        ) as error:
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
