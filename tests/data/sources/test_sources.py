"""Equal images in every kind of container give equal pixels, labels and order.

Damaged containers are refused or reported.
"""

import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from vrpo.data.sources import FolderSource, ParquetSource, WebDatasetSource, ZipSource, open_source
from vrpo.data.sources.base import UnreadableImageError
from vrpo.data.sources.classes import read_class_index
from vrpo.errors import UserError

from tests.fixtures.sources import (
    CLASSES,
    FILES,
    NAMES,
    SIDE,
    WRITERS,
    options,
    write_folder,
    write_parquet,
    write_tars,
    write_zip,
)


@pytest.fixture
def folder(tmp_path):
    return FolderSource(write_folder(tmp_path / "folder"), SIDE)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_container_gives_the_images_of_the_folder(kind, tmp_path, folder):
    root = WRITERS[kind](tmp_path)
    source = open_source(options(kind, root))
    assert (
        len(source) == len(FILES)
        and source.labels.dtype == np.int64
        and source.labels.tolist() == folder.labels.tolist()
    )
    sent = pickle.loads(pickle.dumps(source))  # as it goes to worker processes
    for index in (0, 11, 5, 6, 1, 5):
        np.testing.assert_array_equal(source.read(index), folder.read(index))
        np.testing.assert_array_equal(sent.read(index), folder.read(index))
    described = source.describe()
    assert (
        described["count"] == 12
        and described["classes"] == 3
        and len(described["fingerprint"]) == 64
    )
    assert open_source(options(kind, root)).describe() == described
    finer = options(kind, root).model_copy(update={"resolution": 16})
    assert open_source(finer).describe()["fingerprint"] != described["fingerprint"]


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("inside", ["", "train/", "a/b/"])
def test_zips(tmp_path, folder, kind, inside):
    source = ZipSource(write_zip(tmp_path / "a.zip", inside, kind), SIDE)
    assert source.classes == CLASSES and [
        file.removeprefix(inside) for file in source.files
    ] == list(folder.files)
    np.testing.assert_array_equal(source.read(7), folder.read(7))


def test_class_index_files(tmp_path, folder):
    order = [2, 0, 1]
    keras = {str(label): [CLASSES[place], NAMES[place]] for label, place in enumerate(order)}
    contents = {
        "keras.json": json.dumps(keras),
        "list.json": json.dumps([[CLASSES[place], NAMES[place]] for place in order]),
        "LOC_synset_mapping.txt": "".join(f"{CLASSES[place]} {NAMES[place]}\n" for place in order),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        assert read_class_index(tmp_path / name) == (
            [CLASSES[place] for place in order],
            [NAMES[place] for place in order],
        )
    for kind, root in (("folder", folder.root), ("zip", write_zip(tmp_path / "a.zip"))):
        source = open_source(options(kind, root, class_index=str(tmp_path / "keras.json")))
        assert (
            source.classes == ["Shih-Tzu", "tench", "goldfish"]
            and source.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        )
        np.testing.assert_array_equal(source.read(0), folder.read(8))
        assert (
            source.describe()["fingerprint"]
            != open_source(options(kind, root)).describe()["fingerprint"]
        )


def test_names_of_numbered_classes(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    tars = write_tars(tmp_path / "t")
    assert open_source(options("webdataset", tars)).classes == ["0", "1", "2"]
    assert (
        open_source(options("webdataset", tars, class_index=str(tmp_path / "names.json"))).classes
        == NAMES
    )
    assert open_source(options("parquet", write_parquet(tmp_path / "p"))).classes == NAMES
    assert open_source(
        options("parquet", write_parquet(tmp_path / "q", described=False))
    ).classes == ["0", "1", "2"]
    (tmp_path / "names.json").write_text(json.dumps(NAMES[:2]))
    with pytest.raises(UserError, match=r"data\.class_index: has 2 classes, but .* label 2"):
        open_source(options("webdataset", tars, class_index=str(tmp_path / "names.json")))


def test_ilsvrc_names_its_classes(tmp_path):
    root = WRITERS["ilsvrc"](tmp_path)
    assert open_source(options("ilsvrc", root)).classes == CLASSES
    (root / "imagenet_class_index.json").write_text(
        json.dumps({str(label): [CLASSES[label], NAMES[label]] for label in range(3)})
    )
    assert open_source(options("ilsvrc", root)).classes == NAMES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"1": ["a", "b"]}', "is not of the form"),
        ("{", "is not of the form"),
        ("[]", "names a class twice, or none"),
        ('["a", "a"]', "names a class twice"),
    ],
)
def test_bad_class_indices(tmp_path, content, words):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(UserError, match=words):
        read_class_index(tmp_path / "index.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_class_index(tmp_path / "none.json")


def test_an_index_of_another_data_set(tmp_path, folder):
    (tmp_path / "index.json").write_text(json.dumps([*CLASSES[:2], "n99999999"]))
    with pytest.raises(
        UserError, match=r"class `n02086240` of .* is not in it \(1 are surplus, 1 missing\)"
    ):
        open_source(options("folder", folder.root, class_index=str(tmp_path / "index.json")))


@pytest.mark.parametrize("kind", ["ilsvrc", "zip", "webdataset", "parquet"])
def test_missing_roots(tmp_path, kind):
    with pytest.raises(UserError, match=r"data\.root: .*nowhere") as error:
        open_source(options(kind, tmp_path / "nowhere"))
    assert "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data\.root: .*empty"):
        open_source(options(kind, tmp_path / "empty"))


def test_damaged_zips(tmp_path):
    path = write_zip(tmp_path / "a.zip", kind=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    source = ZipSource(path, SIDE)
    content[int(source._places[3, 0]) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        UnreadableImageError,
        match=(
            r"a\.zip/n01440764/n01440764_2\.JPEG: cannot be read .*(packing is "
            r"damaged|checksum differs)"
        ),
    ):
        source.read(3)
    path.write_bytes(content[:2000])
    with pytest.raises(UserError, match=r"not a readable \.zip"):
        ZipSource(path, SIDE)


def test_damaged_tars(tmp_path):
    root = write_tars(tmp_path / "t")
    first = root / "000000.tar"
    content = first.read_bytes()
    first.write_bytes(content[:5000])
    with pytest.raises(
        UserError,
        match=r"000000\.tar: not a readable, uncompressed tar|000000\.tar: image .* has no",
    ):
        WebDatasetSource(root, SIDE)
    write_tars(tmp_path / "packed", kind="w:gz")
    with pytest.raises(UserError, match=r"000000\.tar: not a readable, uncompressed tar"):
        WebDatasetSource(tmp_path / "packed", SIDE)
    with tarfile.open(first, "w") as archive:
        member = tarfile.TarInfo("a.jpg")
        archive.addfile(member)
    with pytest.raises(UserError, match=r"image `a\.jpg` has no `a\.cls`"):
        WebDatasetSource(root, SIDE)


def test_damaged_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.table({"image": [{"bytes": None, "path": "x"}], "label": [0]}), path
    )
    with pytest.raises(UnreadableImageError, match=r"a\.parquet row 0: cannot be read"):
        ParquetSource(path, SIDE).read(0)
    parquet.write_table(
        pyarrow.table({"image": [{"bytes": b"", "path": "x"}], "label": [-1]}), path
    )
    with pytest.raises(UserError, match=r"label -1; .* test set"):
        ParquetSource(path, SIDE)
    parquet.write_table(pyarrow.table({"pixels": [1]}), path)
    with pytest.raises(UserError, match="has the columns pixels"):
        ParquetSource(path, SIDE)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not a readable parquet file"):
        ParquetSource(path, SIDE)


def test_without_pyarrow(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="needs pyarrow, which is not installed"):
        open_source(options("parquet", tmp_path))
