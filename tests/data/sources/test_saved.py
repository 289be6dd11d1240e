"""The listing that all shards read.

It gives the same images, avoids reading those of other shards, and is ignored once the data have
changed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import vrpo
from vrpo.data.shards import open_arrays, shard_name
from vrpo.data.sources import folder as folder_source
from vrpo.data.sources import load_listing, open_source, save_listing
from vrpo.errors import UserError
from vrpo.prepare import images as stage
from vrpo.prepare.images import list_images, write_images
from vrpo.prepare.manifest import write_manifest

from tests.fixtures.sources import (
    CLASSES,
    FILES,
    WRITERS,
    encoded,
    options,
    write_folder,
    write_zip,
)

SHARDS = 3


@pytest.fixture
def listed_anew(monkeypatch):
    """How often a source is listed from its data."""
    calls = []

    def open_and_count(given):
        calls.append(given)
        return open_source(given)

    monkeypatch.setattr(stage, "open_source", open_and_count)
    return calls


def write_shards(given, folder, listing=None, shards=range(SHARDS)):
    for index in shards:
        write_images(given, folder / shard_name(index, SHARDS), listing)
    return folder


def same(first, second):
    return all(
        (first / name).read_bytes() == (second / name).read_bytes()
        for name in (shard_name(index, SHARDS) for index in range(SHARDS))
    )


@pytest.mark.parametrize("kind", WRITERS)
def test_shards_from_the_listing_are_those_from_the_data(kind, tmp_path, listed_anew):
    given = options(kind, WRITERS[kind](tmp_path))
    wanted = write_shards(given, tmp_path / "wanted")
    list_images(given, tmp_path / "listing.npz")
    del listed_anew[:]
    found = write_shards(given, tmp_path / "found", tmp_path / "listing.npz")
    assert not listed_anew and same(found, wanted)
    write_manifest(given, found, tmp_path / "images.json")
    assert json.loads((tmp_path / "images.json").read_text())["count"] == len(FILES)
    loaded = load_listing(given, tmp_path / "listing.npz")
    assert [loaded.name_of(index) for index in range(len(loaded))] == [
        open_source(given).name_of(index) for index in range(len(loaded))
    ]


def test_workers_read_by_the_listing(tmp_path, listed_anew):
    given = options("zip", WRITERS["zip"](tmp_path), workers=1)
    list_images(given, tmp_path / "listing.npz")
    del listed_anew[:]
    write_images(given, tmp_path / "images.h5", tmp_path / "listing.npz")
    assert not listed_anew and open_arrays(tmp_path / "images.h5").rows("images", slice(None)).any()


def test_a_shard_looks_at_its_own_files_alone(tmp_path, monkeypatch):
    given = options("folder", write_folder(tmp_path / "train"))
    list_images(given, tmp_path / "listing.npz")
    looked, size = [], folder_source._size
    monkeypatch.setattr(folder_source, "_size", lambda file: looked.append(file.name) or size(file))
    monkeypatch.setattr(folder_source, "walk", None)
    write_shards(given, tmp_path / "images", tmp_path / "listing.npz", [1])
    assert looked == [Path(name).name for name in sorted(FILES)[4:8]]


CHANGES = {
    "an image more": lambda root: (root / CLASSES[0] / "more.png").write_bytes(encoded(99)),
    "an image less": lambda root: (root / CLASSES[0] / f"{CLASSES[0]}_0.JPEG").unlink(),
    "an image replaced in its place": lambda root: (
        root / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    ).write_bytes(encoded(99, "BMP")),
    "a deep image": lambda root: (
        (root / CLASSES[0] / "deep").mkdir(),
        (root / CLASSES[0] / "deep" / "x.png").write_bytes(encoded(99)),
    ),
    "a class renamed": lambda root: (root / CLASSES[0]).rename(root / "a00000000"),
    "a class emptied into another": lambda root: [
        (
            file.rename(root / CLASSES[0] / f"moved-{file.name}"),
            (root / CLASSES[1] / file.name).write_bytes(encoded(7)),
        )
        for file in sorted((root / CLASSES[1]).iterdir())[:1]
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_folders_are_listed_again(change, tmp_path, listed_anew):
    root = write_folder(tmp_path / "train")
    given = options("folder", root)
    list_images(given, tmp_path / "listing.npz")
    CHANGES[change](root)
    del listed_anew[:]
    wanted = write_shards(given, tmp_path / "wanted")
    del listed_anew[:]
    write_shards(given, tmp_path / "found", tmp_path / "listing.npz", [0])
    assert len(listed_anew) == 1
    assert (tmp_path / "found" / shard_name(0, SHARDS)).read_bytes() == (
        wanted / shard_name(0, SHARDS)
    ).read_bytes()
    list_images(given, tmp_path / "listing.npz")
    assert same(write_shards(given, tmp_path / "again", tmp_path / "listing.npz"), wanted)


@pytest.mark.parametrize("kind", ["zip", "webdataset", "parquet"])
def test_changed_archives_are_listed_again(kind, tmp_path, listed_anew):
    root = WRITERS[kind](tmp_path)
    given = options(kind, root)
    list_images(given, tmp_path / "listing.npz")
    file = root if root.is_file() else sorted(root.iterdir())[-1]
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))
    del listed_anew[:]
    write_shards(given, tmp_path / "images", tmp_path / "listing.npz")
    assert len(listed_anew) == SHARDS
    if root.is_dir():
        list_images(given, tmp_path / "listing.npz")
        file.rename(root / f"train-9{file.suffix}" if kind == "parquet" else root / "000009.tar")
        del listed_anew[:]
        write_shards(given, tmp_path / "renamed", tmp_path / "listing.npz", [0])
        assert len(listed_anew) == 1


@pytest.mark.parametrize(
    "change", ["resolution", "class_index", "content of the class index", "num_classes", "root"]
)
def test_a_listing_of_other_options_is_not_used(change, tmp_path, listed_anew):
    root, index = write_folder(tmp_path / "train"), tmp_path / "index.json"
    index.write_text(json.dumps(CLASSES))
    given = options("folder", root, class_index=str(index))
    list_images(given, tmp_path / "listing.npz")
    other = {
        "resolution": {"resolution": 16},
        "class_index": {"class_index": None},
        "num_classes": {"num_classes": 4},
        "root": {"root": str(tmp_path / "b")},
    }
    if change == "root":
        (tmp_path / "b").symlink_to(root)
    if change == "content of the class index":
        index.write_text(json.dumps(CLASSES[::-1]))
    given = given.model_copy(update=other.get(change, {}))
    del listed_anew[:]
    if change == "num_classes":
        with pytest.raises(UserError, match=r"data\.num_classes: 4"):
            write_images(given, tmp_path / "images.h5", tmp_path / "listing.npz")
    else:
        write_images(given, tmp_path / "images.h5", tmp_path / "listing.npz")
        write_images(given, tmp_path / "wanted.h5")
        assert (tmp_path / "images.h5").read_bytes() == (tmp_path / "wanted.h5").read_bytes()
    assert listed_anew


def test_options_without_effect_on_the_listing(tmp_path, listed_anew):
    given = options("folder", write_folder(tmp_path / "train"))
    list_images(given, tmp_path / "listing.npz")
    del listed_anew[:]
    write_images(
        given.model_copy(update={"skip_unreadable": True, "shards": 7}),
        tmp_path / "images.h5",
        tmp_path / "listing.npz",
    )
    assert not listed_anew


def test_a_damaged_or_missing_listing_is_not_used(tmp_path, listed_anew):
    given = options("folder", write_folder(tmp_path / "train"))
    list_images(given, tmp_path / "listing.npz")
    whole, rng, used = (tmp_path / "listing.npz").read_bytes(), np.random.default_rng(0), 0
    wanted = load_listing(given, tmp_path / "listing.npz").describe()
    for trial in range(200):
        content = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            content[place] ^= int(rng.integers(1, 256))
        (tmp_path / "listing.npz").write_bytes(
            content[: rng.integers(len(whole))] if trial % 5 == 0 else content
        )
        source = load_listing(given, tmp_path / "listing.npz")
        used += source is not None
        assert source is None or (
            source.describe() == wanted and source.read(0).any() and source.is_current(slice(0, 12))
        )
    assert used < 150
    (tmp_path / "listing.npz").unlink()
    write_images(given, tmp_path / "images.h5", tmp_path / "listing.npz")
    assert open_arrays(tmp_path / "images.h5").shape("images")[0] == len(FILES)


def test_restored_images_are_read_again(tmp_path):
    """One file with an earlier listing, replaced by one of another size and of the same size."""
    root = write_folder(tmp_path / "train")
    place = root / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    whole = place.read_bytes()
    for damaged in (b"no image", bytes(len(whole))):
        place.write_bytes(damaged)
        given = options("folder", root)
        list_images(given, tmp_path / "listing.npz")
        with pytest.raises(UserError, match="lists 1 of 12"):
            write_images(given, tmp_path / "images.h5", tmp_path / "listing.npz")
        place.write_bytes(whole)
        write_images(given, tmp_path / "images.h5", tmp_path / "listing.npz")
        write_manifest(given, tmp_path / "images.h5", tmp_path / "images.json")
        assert not (tmp_path / "images.unreadable.json").exists()
        (tmp_path / "images.h5").unlink()


def test_digits_need_no_listing(tmp_path):
    with pytest.raises(UserError, match=r"data\.source: `digits` has no files to be listed"):
        list_images(
            options("zip", write_zip(tmp_path / "a.zip")).model_copy(
                update={"source": "digits", "num_classes": 10}
            ),
            tmp_path / "listing.npz",
        )


def test_commands(tmp_path):
    given = options("folder", write_folder(tmp_path / "train"), shards=2)
    (tmp_path / "images.yaml").write_text(yaml.safe_dump(given.model_dump(mode="json")))

    def call(*arguments):
        command = [sys.executable, "-m", "vrpo", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(vrpo.__file__).parents[1]
        ).stderr

    assert "12 images of 3 classes" in call(
        "list-images", "--config", tmp_path / "images.yaml", "--output", tmp_path / "listing.npz"
    )
    output = tmp_path / "images" / shard_name(1, 2)
    log = call(
        "images",
        "--config",
        tmp_path / "images.yaml",
        "--listing",
        tmp_path / "listing.npz",
        "--output",
        output,
    )
    assert "listed again" not in log and "12 images of 3 classes" not in log
    write_images(given, tmp_path / "wanted" / output.name)
    assert output.read_bytes() == (tmp_path / "wanted" / output.name).read_bytes()
    save_listing(open_source(given), given, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "listing.npz").read_bytes()
