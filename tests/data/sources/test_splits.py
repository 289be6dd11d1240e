"""Splits side by side: only the training split is used, and the log counts what was read."""

import io
import logging
import shutil
import tarfile
import zipfile

import pytest

from vrpo.data.sources import open_source
from vrpo.errors import UserError

from tests.fixtures.sources import (
    CLASSES,
    FILES,
    WRITERS,
    encoded,
    options,
    write_folder,
    write_parquet,
    write_tars,
)

OTHER = encoded(999)  # an image of no training split


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def rename(root, ending, names):
    """The archives of a folder get these names, in their order."""
    files = sorted(root.glob(f"*{ending}"))
    for number, file in enumerate(files):
        file.rename(root / f"_{number}")
    for number, name in enumerate(names):
        shutil.copy(root / f"_{number % len(files)}", root / name)
    for number in range(len(files)):
        (root / f"_{number}").unlink()


ARCHIVES = {
    "webdataset": (lambda path: write_tars(path / "t"), ".tar"),
    "parquet": (lambda path: write_parquet(path / "p"), ".parquet"),
}
NAMES = [
    [
        "train-00000-of-00002",
        "train-00001-of-00002",
        "validation-00000-of-00001",
        "test-00000-of-00001",
    ],
    ["imagenet1k-train-0000", "imagenet1k-train-0001", "imagenet1k-validation-00"],
    ["Train_0", "Train_1", "Val_0"],
    ["train2017.0", "train2017.1", "val2017.0"],
    ["data.training.0", "data.training.1", "data.eval.0", "data.dev.0"],
]


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_only_the_training_files_are_used(kind, names, tmp_path, logged):
    write, ending = ARCHIVES[kind]
    root = write(tmp_path)
    rename(root, ending, [f"{name}{ending}" for name in names])
    source = open_source(options(kind, root))
    assert len(source) == len(FILES) and source.labels.tolist() == sorted(source.labels.tolist())
    assert (
        f"of the {len(names)} files in {root} the 2 of the training split are used; left out: "
        in logged.text
    )
    assert f"{len(FILES)} images of 3 classes" in logged.text
    both = source.describe()["fingerprint"]
    for name in names[2:]:
        (root / f"{name}{ending}").unlink()
    assert open_source(options(kind, root)).describe()["fingerprint"] == both


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize(
    "names",
    [
        ["part-0", "part-1"],
        ["validation-0", "validation-1"],
        ["latest-0", "trained-1"],
        ["train-val-0", "train-val-1"],
    ],
)
def test_files_of_one_kind_are_all_used(kind, names, tmp_path):
    write, ending = ARCHIVES[kind]
    root = write(tmp_path)
    rename(root, ending, [f"{name}{ending}" for name in names])
    assert len(open_source(options(kind, root))) == len(FILES)


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train-0", "extra-0"], r"1 of no split \(`extra-0\.\w+`\), 1 of train \(`train-0"),
        (["validation-0", "test-0"], r"1 of test \(`test-0\.\w+`\), 1 of validation"),
        (["images-0", "images-1", "val-0"], r"2 of no split \(`images-0\.\w+`\), 1 of validation"),
    ],
    ids=str,
)
def test_files_whose_split_is_not_clear_are_refused(kind, names, said, tmp_path):
    write, ending = ARCHIVES[kind]
    root = write(tmp_path)
    rename(root, ending, [f"{name}{ending}" for name in names])
    with pytest.raises(
        UserError,
        match=(
            rf"data\.root: .* holds files of several splits: {said}.*; put those to "
            rf"train on into a folder"
        ),
    ) as error:
        open_source(options(kind, root))
    assert "\n" not in str(error.value)


# ---- folders -------------------------------------------------------------------------------------


SPLITS = [
    ("train", ["val"]),
    ("train", ["test"]),
    ("Training", ["validation", "testing"]),
    ("train2017", ["val2017"]),
    ("train_256", ["val_256", "test_256"]),
]


def write_splits(root, train, others):
    write_folder(root / train)
    for split in others:
        for name in CLASSES[:2]:
            (root / split / name).mkdir(parents=True)
            (root / split / name / "x.JPEG").write_bytes(OTHER)
    return root


def packed(root, kind):
    """A folder, or what packs it."""
    if kind == "folder":
        return root
    if kind == "zip":
        with zipfile.ZipFile(root.parent / "a.zip", "w") as archive:
            for file in sorted(root.rglob("*.JPEG")):
                archive.write(file, file.relative_to(root.parent))
        return root.parent / "a.zip"
    (root.parent / "tars").mkdir()
    with tarfile.open(root.parent / "tars" / "0.tar", "w") as archive:
        for file in sorted(root.rglob("*.JPEG")):
            name = f"./{file.relative_to(root).as_posix()}"
            for packed_name, content in (
                (name, file.read_bytes()),
                (name.replace(".JPEG", ".cls"), str(CLASSES.index(file.parent.name)).encode()),
            ):
                member = tarfile.TarInfo(packed_name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return root.parent / "tars"


@pytest.mark.parametrize("kind", ["folder", "zip", "webdataset"])
@pytest.mark.parametrize(
    ("train", "others"),
    SPLITS,
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_only_the_training_folder_is_used(kind, train, others, tmp_path, logged):
    root = packed(write_splits(tmp_path / "imagenet", train, others), kind)
    source = open_source(options(kind, root))
    assert len(source) == len(FILES) and len(source.classes) == 3
    assert all(
        source.name_of(index).endswith(sorted(FILES)[index])
        and f"/{train}/" in source.name_of(index)
        for index in range(len(FILES))
    )
    assert f"`{train}` is used; left out: " in logged.text and all(
        f"`{name}`" in logged.text for name in others
    )
    assert f"{len(FILES)} images of 3 classes" in logged.text


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("others", [["val"], ["val", "test"]])
def test_two_splits_are_not_two_classes(kind, others, tmp_path):
    """As many classes as splits: the folders would have been taken for classes."""
    root = packed(write_splits(tmp_path / "imagenet", "train", others), kind)
    wanted = len(others) + 1
    if wanted == 3:
        assert open_source(options(kind, root)).classes == CLASSES
    else:
        with pytest.raises(UserError, match=r"data\.num_classes: 2, but .* has 3 classes"):
            open_source(options(kind, root).model_copy(update={"num_classes": wanted}))


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    "names",
    [["train", "val", "annotations"], ["train", "training", "val"], ["val", "test"]],
    ids=str,
)
def test_folders_of_which_none_is_clearly_for_training_are_refused(kind, names, tmp_path):
    root = tmp_path / "imagenet"
    for name in names:
        (root / name / "deeper").mkdir(parents=True)
        (root / name / "deeper" / "x.JPEG").write_bytes(OTHER)
    with pytest.raises(
        UserError,
        match=(
            r"data\.root: .* holds splits of a data set, not classes: .*; name the "
            r"folder of the training split"
        ),
    ) as error:
        open_source(options(kind, packed(root, kind)))
    assert all(f"`{name}`" in str(error.value) for name in names)


@pytest.mark.parametrize(
    "names",
    [["train", "bus", "car"], ["test", "apple", "pear"], ["valley", "training shoe", "train"]],
    ids=str,
)
def test_words_among_the_classes_are_classes(names, tmp_path):
    root = tmp_path / "train"
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "x.JPEG").write_bytes(OTHER)
    for kind in ("folder", "zip"):
        assert open_source(options(kind, packed(root, kind))).classes == sorted(names)


def test_ilsvrc_has_its_training_split_alone(tmp_path):
    root = WRITERS["ilsvrc"](tmp_path)
    shutil.copytree(root / "ILSVRC/Data/CLS-LOC/train", root / "ILSVRC/Data/CLS-LOC/val")
    assert len(open_source(options("ilsvrc", root))) == len(FILES)
