"""Images that no source reads are refused by name and number; other files are passed over."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vrpo.data.sources import FolderSource, ParquetSource, WebDatasetSource, ZipSource, open_source
from vrpo.data.sources import folder as folder_source
from vrpo.data.sources.formats import EXTENSIONS, UNREAD_EXTENSIONS, is_unread_image
from vrpo.errors import UserError

from tests.fixtures.sources import CLASSES, FILES, SIDE, encoded, options, write_folder, write_tars

PNG = encoded(0)
PIXELS = Image.fromarray(np.full((20, 17, 3), 7, np.uint8))


def add_to_tar(path, files):
    with tarfile.open(path, "a") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def with_files(kind, folder, files, inside=""):
    """A whole data set of this kind and `files` (by name and content) among its images."""
    if kind == "webdataset":
        root = write_tars(folder / "t")
        for name, content in files.items():
            add_to_tar(root / "000001.tar", {name: content, f"{name.partition('.')[0]}.cls": b"1"})
        return root
    place = "ILSVRC/Data/CLS-LOC/train" if kind == "ilsvrc" else inside
    write_folder(folder / "f" / place)
    for name, content in files.items():
        (folder / "f" / place / CLASSES[1] / name).write_bytes(content)
    if kind != "zip":
        return folder / "f"
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for file in sorted((folder / "f").rglob("*")):
            archive.write(file, file.relative_to(folder / "f"))
    return folder / "a.zip"


KINDS = ["folder", "ilsvrc", "zip", "webdataset"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["q.gif", "q.JP2", "q.avif", "q.heic", "q.jfif", "q", "q.1"])
def test_images_that_are_not_read_are_refused(kind, name, tmp_path):
    root = with_files(kind, tmp_path, {name: PNG, "r.gif": b"GIF89a"})
    said = (
        rf"holds images of kinds that are not read: 2, first `([\w/]*/)?{name}`; "
        rf".*\.jpg, .*, or move"
    )
    with pytest.raises(UserError, match=said) as error:
        open_source(options(kind, root))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_passed_over(kind, tmp_path):
    files = {
        "README": b"PNG files\n",
        "LICENSE.md": PNG,
        "x.json": b"{}",
        "x.txt": b"BM",
        "empty": b"",
    }
    if kind == "webdataset":
        root = write_tars(tmp_path / "t")
        add_to_tar(root / "000001.tar", files)
    else:
        files |= {".DS_Store": PNG, "Thumbs.db": PNG, ".q.gif": PNG, "._q": PNG}
        root = with_files(kind, tmp_path, files)
    assert len(open_source(options(kind, root))) == len(FILES)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_class_of_such_images_alone(kind, tmp_path):
    """Also below a common folder, which must not end at the one class that is read."""
    for name, file in (("cat", "x.png"), ("dog", "x.gif")):
        (tmp_path / "f" / name / "deep").mkdir(parents=True)
        (tmp_path / "f" / name / "deep" / file).write_bytes(PNG)
    root = tmp_path / "f"
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for file in root.rglob("x.*"):
                archive.write(file, file.relative_to(root))
        root = tmp_path / "a.zip"
    with pytest.raises(UserError, match=r"kinds that are not read: 1, first `dog/deep/x\.gif`"):
        open_source(options(kind, root))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_splits_that_are_left_out_may_hold_any_image(kind, tmp_path):
    (tmp_path / "f" / "val" / CLASSES[0]).mkdir(parents=True)
    (tmp_path / "f" / "val" / CLASSES[0] / "x.gif").write_bytes(PNG)
    assert len(open_source(options(kind, with_files(kind, tmp_path, {}, "train")))) == len(FILES)
    (tmp_path / "f" / "train" / CLASSES[0] / "x.gif").write_bytes(PNG)
    with pytest.raises(UserError, match="kinds that are not read: 1, first"):
        open_source(options("folder", tmp_path / "f"))


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("name", ["x.png", "x.gif", "x"])
def test_images_beside_the_class_folders_are_refused(kind, name, tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / name).write_bytes(PNG)
    root = with_files(kind, tmp_path, {})
    with pytest.raises(
        UserError, match=rf"(beside the class folders|not read): 1, first `{name}`; "
    ):
        open_source(options(kind, root))


def test_only_files_without_an_extension_are_opened(tmp_path, monkeypatch):
    root = with_files("folder", tmp_path, {"README": b"", "x.json": b"", "x.1": b""})
    opened, first_bytes = [], folder_source.first_bytes
    monkeypatch.setattr(
        folder_source, "first_bytes", lambda file: opened.append(file.name) or first_bytes(file)
    )
    FolderSource(root, SIDE)
    assert sorted(opened) == ["README", "x.1"]


def test_first_bytes_of_every_format():
    formats = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "DDS", "QOI"]
    for kind in formats:
        file = io.BytesIO()
        PIXELS.save(file, kind)
        assert is_unread_image("a/b", lambda content=file.getvalue(): content[:32]), kind
    for content in (b"\0\0\0\x1cftypavif", b"\0\0\0\x18ftypheic", b"\0\0\0\x0cJXL \r\n\x87\n"):
        assert is_unread_image("a/b", lambda content=content: content)
    for content in (b"", b"BMW are cars", b"P5 is a format", b"PK\3\4", b"II", b"{}", bytes(32)):
        assert not is_unread_image("a/b", lambda content=content: content)


def test_no_extension_is_both_read_and_refused():
    """Every extension that Pillow may open is in one of the lists.

    Documents, films and data are exceptions.
    """
    assert UNREAD_EXTENSIONS.isdisjoint(EXTENSIONS)
    Image.init()
    rare = {
        "BLP",
        "BUFR",
        "DCX",
        "EPS",
        "FITS",
        "FLI",
        "FTEX",
        "GBR",
        "GRIB",
        "HDF5",
        "IM",
        "IPTC",
        "MPEG",
    }
    rare |= {"MSP", "PALM", "PCD", "PDF", "PIXAR", "SGI", "SUN", "TGA"}
    known = UNREAD_EXTENSIONS.union(EXTENSIONS)
    assert [
        ending
        for ending, kind in Image.EXTENSION.items()
        if kind not in rare and ending not in known
    ] == []


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar.part", "X.TAR.xz"])
def test_packed_and_incomplete_shards_are_refused(name, tmp_path):
    root = write_tars(tmp_path / "t")
    (root / name).touch()
    with pytest.raises(
        UserError, match=rf"packed or incomplete: 1, first `{name}`; .*end in \.tar"
    ):
        WebDatasetSource(root, SIDE)


def test_shards_in_capitals_are_read(tmp_path):
    root = write_tars(tmp_path / "t")
    (root / "000001.tar").rename(root / "000001.TAR")
    assert len(WebDatasetSource(root, SIDE)) == len(FILES)


# ---- names and labels of archives ----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice(tmp_path):
    root, name = with_files("zip", tmp_path, {}), sorted(FILES)[0]
    with zipfile.ZipFile(root, "a") as archive:
        archive.writestr(name, PNG)
    with pytest.raises(
        UserError, match=rf"a\.zip: holds files more than once .*: 1, first `{name}`; pack"
    ):
        ZipSource(root, SIDE)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.jpg": PNG}, r"image `a\.jpg` has no `a\.cls` beside it"),
        ({"a.cls": b"0"}, r"label `a\.cls` has no image beside it"),
        ({"00000000.jpg": PNG}, r"sample `00000000` has two images"),
        (
            {"00000000.cls": b"2"},
            r"sample `00000000` has two labels, 00000000\.cls and 00000000\.cls",
        ),
        ({"a.cls": b"cat"}, r"`a\.cls` holds `cat`; a label is the number of its class in digits"),
        ({"a.cls": b"1.0"}, r"`a\.cls` holds `1\.0`; a label is the number"),
        ({"a.cls": b"1_0"}, r"`a\.cls` holds `1_0`; a label is the number"),
        ({"a.cls": b""}, r"`a\.cls` holds ``; a label is the number"),
        ({"a.cls": b"\xff\n" * 40}, r"`a\.cls` holds `\\xff\\n.*\.\.\.`; a label is the number"),
    ],
)
def test_samples_of_tars(files, said, tmp_path):
    root = write_tars(tmp_path / "t")
    add_to_tar(root / "000000.tar", files)
    with pytest.raises(UserError, match=rf"000000\.tar: {said}") as error:
        WebDatasetSource(root, SIDE)
    assert str(error.value).isprintable()


def test_labels_of_tars_may_have_spaces_around(tmp_path):
    root = write_tars(tmp_path / "t")
    add_to_tar(root / "000000.tar", {"a.jpg": PNG, "a.cls": b" 2\r\n"})
    assert WebDatasetSource(root, SIDE).labels.tolist().count(2) == 5


def write_rows(path: Path, labels, images=None):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = images or [{"bytes": PNG, "path": "x"}] * len(labels)
    parquet.write_table(pyarrow.table({"image": images, "label": labels}), path)
    return path


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, None, 1, None], "row 1 has no label, 2 rows in all; write"),
        ([None, None], "row 0 has no label, 2 rows in all; write"),
        ([0.5, 1.0], "column `label` holds values of type double; write integers"),
        ([0.0, 1.0], "column `label` holds values of type double; write integers"),
        ([True, False], "column `label` holds values of type bool; write integers"),
        (["cat", "dog"], "column `label` holds text; write integers"),
        ([[0], [1]], r"column `label` holds values of type list<.*>; write integers"),
        (
            np.array([2**63, 0], np.uint64),
            r"column `label` holds a number of no class \(.*\); write",
        ),
    ],
)
def test_labels_of_parquet(labels, said, tmp_path):
    with pytest.raises(UserError, match=rf"a\.parquet: {said}") as error:
        ParquetSource(write_rows(tmp_path / "a.parquet", labels), SIDE)
    assert "\n" not in str(error.value) and "fetch it again" not in str(error.value)


def test_integers_of_any_width_and_categories_of_them(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    numbers = pyarrow.array([2, 0, 1], pyarrow.uint8())
    for labels in (numbers, numbers.dictionary_encode(), numbers.cast(pyarrow.uint64())):
        source = ParquetSource(write_rows(tmp_path / "a.parquet", labels), SIDE)
        assert source.labels.tolist() == [2, 0, 1] and source.labels.dtype == np.int64
    words = pyarrow.array(["cat", "dog", "cat"]).dictionary_encode()
    with pytest.raises(UserError, match="column `label` holds text"):
        ParquetSource(write_rows(tmp_path / "a.parquet", words), SIDE)


def test_images_of_parquet_are_structs(tmp_path):
    for images, kind in (([PNG], "binary"), (["x.png"], "string"), ([{"path": "x"}], "struct<.*>")):
        with pytest.raises(
            UserError, match=rf"column `image` holds values of type {kind}; images are"
        ):
            ParquetSource(write_rows(tmp_path / "a.parquet", [0], images), SIDE)
