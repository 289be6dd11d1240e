"""Damaged, cut and foreign HDF5 files.

They give one line that names the file, or what was written; never a traceback, never other values.
"""

import json
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import vrpo
from vrpo.data.arrays import ArrayWriter
from vrpo.data.batches import TrainingData
from vrpo.data.checksums import stamp_path
from vrpo.data.layout import ATTRIBUTE
from vrpo.data.shards import open_arrays, shard_attributes, shard_name
from vrpo.errors import UserError
from vrpo.files import partial_path
from vrpo.metrics.inputs import open_images
from vrpo.prepare.unreadable import UnreadableList

from tests.fixtures.hdf5 import CONTENT, PICTURES, N, write, write_all
from tests.fixtures.permissions import unprivileged


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("whole"))


def metadata(path):
    """Places of all bytes that are no rows, and are not zero."""
    content = path.read_bytes()
    with h5py.File(path) as file:
        rows = [
            range(file[name].id.get_offset(), file[name].id.get_offset() + file[name].nbytes)
            for name in file
        ]
    return [
        place
        for place, byte in enumerate(content)
        if byte and not any(place in taken for taken in rows)
    ]


def outcome(path, arrays, attributes):
    """Whether the file is refused, in one line that names it; else it is what was written."""
    try:
        found = open_arrays(path)
        read = {name: found.rows(name, slice(None)) for name in found.keys()}  # noqa: SIM118
    except UserError as error:
        assert "\n" not in str(error) and str(error).startswith(str(path)), error
        return True
    assert found.attributes == attributes and read.keys() == arrays.keys()
    for name, values in arrays.items():
        assert read[name].dtype == values.dtype
        np.testing.assert_array_equal(read[name], values)
    return False


# ---- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONTENT)
def test_each_byte_of_the_metadata(kind, whole, tmp_path):
    file, content, rng = tmp_path / "x.h5", (whole / f"{kind}.h5").read_bytes(), random.Random(kind)
    places = metadata(whole / f"{kind}.h5")
    refused = 0
    for place in places:
        spoilt = bytearray(content)
        spoilt[place] = rng.choice(
            (spoilt[place] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255)
        )
        file.write_bytes(spoilt)
        refused += outcome(file, *CONTENT[kind])
    assert len(places) > 300 and 150 < refused < len(places)


@pytest.mark.parametrize("kind", CONTENT)
def test_random_bytes(kind, whole, tmp_path):
    file, content, rng = (
        tmp_path / "x.h5",
        (whole / f"{kind}.h5").read_bytes(),
        random.Random(f"bytes {kind}"),
    )
    places = metadata(whole / f"{kind}.h5")
    refused = 0
    for _ in range(300):
        spoilt = bytearray(content)
        for _ in range(rng.choice((1, 2, 4, 16))):
            spoilt[
                rng.choice(
                    (
                        rng.choice(places),
                        rng.randrange(min(4096, len(spoilt))),
                        rng.randrange(len(spoilt)),
                    )
                )
            ] = rng.randrange(256)
        file.write_bytes(spoilt)
        refused += outcome(file, *CONTENT[kind])
    assert 150 < refused < 300


def test_each_row_is_checked(whole, tmp_path):
    file, content = tmp_path / "x.h5", (whole / "images.h5").read_bytes()
    with h5py.File(whole / "images.h5") as opened:
        start = opened["images"].id.get_offset()
    for row in range(N):
        spoilt = bytearray(content)
        spoilt[start + row * 192 + 17 * row] ^= 1
        file.write_bytes(spoilt)
        with pytest.raises(UserError, match=rf"x\.h5: row {row} is damaged"):
            open_arrays(file)


def test_cut_files(whole, tmp_path):
    file, content = tmp_path / "x.h5", (whole / "features.h5").read_bytes()
    for length in [*range(0, 2000, 37), *range(2000, len(content), 997), len(content) - 1]:
        file.write_bytes(content[:length])
        assert (
            outcome(file, *CONTENT["features"]) or length >= len(content) - 4096
        )  # what is cut of the last page may be padding


def test_shards(tmp_path):
    arrays, attributes = CONTENT["features"][0], {"images": "f" * 64, "storage": "int8"}
    for index in range(2):
        rows = slice(index * 5, index * 5 + 5)
        name = shard_name(index, 2)
        write(
            tmp_path / "f" / name,
            {key: values[rows] for key, values in arrays.items()},
            shard_attributes(name, attributes, {"error": {"mean": 0.1, "worst": 0.2}}),
        )
    wanted = {**attributes, "error": {"mean": 0.1, "worst": 0.2}}
    file, rng = tmp_path / "f" / shard_name(1, 2), random.Random(0)
    content, places = file.read_bytes(), metadata(file)
    assert not outcome(tmp_path / "f", arrays, wanted)
    refused = 0
    for place in places:
        spoilt = bytearray(content)
        spoilt[place] = rng.choice((spoilt[place] ^ 1 << rng.randrange(8), rng.randrange(32, 127)))
        file.write_bytes(spoilt)
        refused += outcome(tmp_path / "f", arrays, wanted)
    assert 150 < refused < len(places)


# ---- files that others wrote ---------------------------------------------------------------------


def bare(name, **options):
    """A dataset beside which nothing is wrong but the missing attribute."""
    return lambda file: file.create_dataset(name, **options)


def a_soft_link(file):
    file["labels"] = h5py.SoftLink("/nowhere")


def a_link_to_another_file(file):
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["images"] = PICTURES["images"]
    file["images"] = h5py.ExternalLink("other.h5", "/images")


def rows_in_another_file(file):
    file.create_dataset(
        "images",
        PICTURES["images"].shape,
        np.uint8,
        external=[(str(Path(file.filename).with_name("raw")), 0, h5py.h5f.UNLIMITED)],
    )


def a_virtual_dataset(file):
    layout = h5py.VirtualLayout((N,), np.int64)
    layout[:] = h5py.VirtualSource("other.h5", "labels", (N,))
    file.create_virtual_dataset("labels", layout)


def unequal_rows(file):
    file["images"], file["labels"] = PICTURES["images"], np.arange(N - 1)


FOREIGN = {
    "a group": lambda file: file.create_group("images"),
    "nothing": lambda file: None,
    "texts": bare("labels", data=["a", "b"]),
    "fixed texts": bare("labels", data=np.array([b"a", b"b"])),
    "arrays of several lengths": bare("labels", shape=(3,), dtype=h5py.vlen_dtype(np.int32)),
    "records": bare("labels", data=np.zeros(3, [("a", np.int32), ("b", np.float32)])),
    "references": bare("labels", shape=(3,), dtype=h5py.ref_dtype),
    "one number": bare("labels", data=3),
    "no space": bare("labels", data=h5py.Empty("f4")),
    "complex numbers": bare("labels", data=np.zeros(3, np.complex64)),
    "chunks": bare("images", data=PICTURES["images"], chunks=(2, 8, 8, 3)),
    "compression": bare("images", data=PICTURES["images"], compression="gzip"),
    "plain arrays": lambda file: file.update(PICTURES),
    "unequal rows": unequal_rows,
    **{
        make.__name__.replace("_", " "): make
        for make in (a_soft_link, a_link_to_another_file, rows_in_another_file, a_virtual_dataset)
    },
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("described", [False, True])
def test_files_of_other_tools(kind, described, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        FOREIGN[kind](file)
        if described:
            file.attrs[ATTRIBUTE] = np.bytes_(
                json.dumps({"seal": "0" * 64, "images": "x", "fingerprint": "x"})
            )
    for use in (open_arrays, open_images, lambda path: TrainingData(path, {})):
        with pytest.raises(UserError, match=r"x\.h5: ") as error:
            use(tmp_path / "x.h5")
        assert "\n" not in str(error.value)


ATTRIBUTES = {
    "none": None,
    "a number": 3,
    "numbers": np.arange(3),
    "no bytes": h5py.Empty("S10"),
    "records": np.zeros(2, [("a", np.int32)]),
    "a list": np.bytes_("[1, 2]"),
    "null": np.bytes_("null"),
    "a word": np.bytes_('"seal"'),
    "half": np.bytes_('{"seal": '),
    "no text": np.bytes_(b"\xff\xfe{}"),
    "deep": np.bytes_("[" * 20_000),
    "a text of Python": '{"seal": "x"}',
    "several": np.array([b"{}", b"{}"]),
}


@pytest.mark.parametrize("value", ATTRIBUTES)
def test_attributes_of_other_kinds(value, whole, tmp_path):
    shutil.copy(whole / "images.h5", tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file.attrs[ATTRIBUTE]
        if ATTRIBUTES[value] is not None:
            file.attrs[ATTRIBUTE] = ATTRIBUTES[value]
    assert outcome(tmp_path / "x.h5", *CONTENT["images"])


def test_a_file_that_may_not_be_read():
    with unprivileged() as folder:
        write(folder / "closed" / "x" / "images.h5", *CONTENT["images"])
        write(folder / "x.h5", *CONTENT["images"]).chmod(0)
        (folder / "closed" / "x").chmod(0)
        for place in (
            folder / "x.h5",
            folder / "closed" / "x",
            folder / "closed" / "x" / "images.h5",
        ):
            with pytest.raises(
                UserError,
                match=(
                    r"(x\.h5|closed/x.*): (may not be read \(permission|cannot be "
                    r"listed \(Permission) denied\); make it readable"
                ),
            ):
                open_arrays(place)


# ---- what interrupted stages leave ---------------------------------------------------------------


def write_half(path, arrays, attributes):
    with ArrayWriter(
        path, {name: (values.shape, values.dtype) for name, values in arrays.items()}, attributes
    ) as writer:
        for rows in list(writer.batches(2))[:3]:
            writer.write(rows.start, {name: values[rows] for name, values in arrays.items()})


def test_a_damaged_partial_file_is_not_gone_on_with(tmp_path):
    """Damage while the stage was away: the finished file is right, or its check refuses it."""
    arrays, attributes = CONTENT["features"]
    wanted = write(tmp_path / "wanted.h5", arrays, attributes).read_bytes()
    path = tmp_path / "x.h5"
    write_half(path, arrays, attributes)
    partial, progress = partial_path(path), path.with_name(f".{path.name}.progress")
    left, noted, rng = partial.read_bytes(), progress.read_bytes(), random.Random(0)
    places = metadata(partial)
    right = 0
    for trial in range(250):
        spoilt = bytearray(left)
        for _ in range(rng.choice((1, 3))):
            spoilt[rng.choice((rng.choice(places), rng.randrange(len(spoilt))))] = rng.randrange(
                256
            )
        partial.write_bytes(spoilt[: rng.randrange(len(spoilt))] if trial % 10 == 0 else spoilt)
        note = bytearray(noted)
        if trial % 3 == 0:
            note[rng.randrange(len(note))] = rng.randrange(256)
        progress.write_bytes(note)
        try:
            write(path, arrays, attributes)
            stamp_path(path).unlink()
            right += path.read_bytes() == wanted or not outcome(path, arrays, attributes)
        except UserError as error:
            assert "\n" not in str(error)
        path.unlink(missing_ok=True)
    assert right > 100


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"source": "s"}',
        '{"source": "s", "images": [{"index": 1}], "complete": true}',
        "\udcff",
    ],
)
def test_a_damaged_list_of_unreadable_images_is_none(content, tmp_path):
    (tmp_path / "images.unreadable.json").write_text(
        content, encoding="utf-8", errors="surrogateescape"
    )
    found = UnreadableList(tmp_path / "images.h5", "s")
    assert found.images == [] and not found.complete


def test_all_of_the_project_opens_hdf5_here():
    """Only two modules open HDF5, so these tests are of every place that reads it."""
    package = Path(vrpo.__file__).parent
    assert {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "h5py." in path.read_text()
    } == {"data/hdf5.py", "data/layout.py"}
