"""Rows of one file and of a folder of shards; damaged, missing and foreign shards."""

import itertools
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vrpo.data import checksums as checksums_module
from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.data.checksums import is_remembered, stamp_path
from vrpo.data.shards import (
    ShardedArrays,
    is_sharded,
    open_arrays,
    shard_attributes,
    shard_name,
    shard_rows,
)
from vrpo.errors import UserError

COUNT = 50
RANDOM = np.random.default_rng(0)
CONTENT = {
    "labels": RANDOM.integers(0, 10, COUNT),
    "scale": RANDOM.normal(size=(COUNT, 7)).astype(np.float16),
    "tokens": RANDOM.integers(-127, 128, (COUNT, 7, 900), dtype=np.int8),
}
ATTRIBUTES = {"images": "abc", "encoder": "vit"}


def write(path, rows=slice(0, COUNT), attributes=ATTRIBUTES, own=None):
    part = {name: values[rows] for name, values in CONTENT.items()}
    with ArrayWriter(
        path,
        {name: (values.shape, values.dtype) for name, values in part.items()},
        shard_attributes(path, attributes, own or {}),
    ) as writer:
        writer.write(0, part)
        writer.finish()
    return path


def write_shards(folder, of):
    for index in range(of):
        write(path := folder / shard_name(index, of), shard_rows(COUNT, path))
    return folder


@pytest.fixture
def whole(tmp_path):
    return write(tmp_path / "whole.h5")


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "shards", 3)


@pytest.mark.parametrize("of", [1, 2, 3, 7, 50])
def test_shards_cover_every_row_once(of):
    parts = [shard_rows(COUNT, shard_name(index, of)) for index in range(of)]
    assert parts[0].start == 0 and parts[-1].stop == COUNT
    assert all(first.stop == second.start for first, second in itertools.pairwise(parts))
    assert {part.stop - part.start for part in parts} <= {COUNT // of, COUNT // of + 1}


def test_too_many_shards():
    with pytest.raises(UserError, match=r"data\.shards: 51 shards for 50 images"):
        shard_rows(COUNT, shard_name(0, 51))
    with pytest.raises(UserError, match="there is no shard 3 of 3"):
        shard_rows(COUNT, "shard-00003-of-00003.h5")


def indices():
    yield np.array([7, 0, 49, 7])
    yield np.arange(12, 40)
    yield np.array([], dtype=np.int64)
    yield np.arange(COUNT)[::-1]
    yield RANDOM.integers(0, COUNT, 500)  # enough bytes for several threads


def test_rows_are_those_of_one_file(whole, shards):
    one, many = open_arrays(whole), open_arrays(shards)
    assert (
        isinstance(one, Arrays)
        and isinstance(many, ShardedArrays)
        and is_sharded(shards)
        and not is_sharded(whole)
    )
    assert one.keys() == many.keys() == sorted(CONTENT) and "tokens" in many and "mean" not in many
    assert one.attributes == many.attributes == ATTRIBUTES and one.fingerprint == many.fingerprint
    for name, values in CONTENT.items():
        assert (
            one.shape(name) == many.shape(name) == values.shape
            and one.dtype(name) == many.dtype(name) == values.dtype
        )
        for wanted in [*indices(), slice(3, 30), slice(None), slice(45, 99), slice(0, 0)]:
            for arrays in (one, many):
                rows = arrays.rows(name, wanted)
                assert rows.dtype == values.dtype and rows.flags.writeable
                np.testing.assert_array_equal(rows, values[wanted])


def test_reading_into_a_given_array(shards):
    arrays, wanted = open_arrays(shards), np.array([3, 44, 17])
    out = np.zeros((3, 7, 900), np.int8)
    assert arrays.rows("tokens", wanted, out) is out
    np.testing.assert_array_equal(out, CONTENT["tokens"][wanted])
    for wrong in (
        np.zeros((2, 7, 900), np.int8),
        np.zeros((3, 7, 900), np.uint8),
        np.zeros((3, 900, 7), np.int8).transpose(0, 2, 1),
    ):
        with pytest.raises(ValueError, match="`out` must be"):
            arrays.rows("tokens", wanted, wrong)


def test_indices_out_of_range(whole, shards):
    for arrays, wrong in itertools.product(
        (open_arrays(whole), open_arrays(shards)), ([COUNT], [-1], [[0]])
    ):
        with pytest.raises(IndexError):
            arrays.rows("labels", np.array(wrong))
    with pytest.raises(ValueError, match="step 1"):
        open_arrays(whole).rows("labels", slice(0, 10, 2))


def test_after_a_fork_and_after_pickling(shards):
    arrays, wanted = open_arrays(shards), RANDOM.integers(0, COUNT, 400)
    arrays.rows("tokens", wanted)
    child = os.fork()
    if child == 0:
        os._exit(
            0 if np.array_equal(arrays.rows("tokens", wanted), CONTENT["tokens"][wanted]) else 1
        )
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(arrays)).rows("tokens", wanted), CONTENT["tokens"][wanted]
    )


def test_many_threads_open_a_file_at_once(whole):
    for _ in range(20):
        arrays = open_arrays(whole)
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(arrays.rows, ["labels"] * COUNT, np.arange(COUNT)[:, None]))
        np.testing.assert_array_equal(np.concatenate(read), CONTENT["labels"])


def test_errors_and_skipped_images_are_gathered(tmp_path):
    own = [
        {"error": {"mean": 1e-4, "worst": 2e-4}, "skipped": []},
        {"error": {"mean": 3e-4, "worst": 9e-4}, "skipped": [41]},
    ]
    images = {"fingerprint": "f", "count": COUNT + 1}
    for index, part in enumerate(own):
        write(path := tmp_path / "s" / shard_name(index, 2), shard_rows(COUNT, path), images, part)
    arrays = open_arrays(tmp_path / "s")
    assert arrays.attributes["error"] == {"mean": pytest.approx(2e-4), "worst": 9e-4}
    assert (
        arrays.attributes["count"] == COUNT
        and arrays.attributes["skipped"] == 1
        and arrays.attributes["fingerprint"] != "f"
    )


# ---- what is refused -----------------------------------------------------------------------------


def test_missing_and_surplus_shards(shards):
    (shards / shard_name(1, 3)).unlink()
    with pytest.raises(UserError, match=r"shard-00001-of-00003\.h5: missing \(1 of 3 shards are\)"):
        open_arrays(shards)
    write(shards / shard_name(0, 4), slice(0, 12))
    with pytest.raises(UserError, match=r"shards of different counts \(3, 4"):
        open_arrays(shards)
    (shards.parent / "empty").mkdir()
    with pytest.raises(UserError, match="holds no shards"):
        open_arrays(shards.parent / "empty")


@pytest.mark.parametrize(("key", "value"), [("encoder", "clip"), ("images", "xyz")])
def test_a_shard_of_another_encoder_or_image_set(shards, key, value):
    path = shards / shard_name(2, 3)
    path.unlink()
    write(path, shard_rows(COUNT, path), {**ATTRIBUTES, key: value})
    with pytest.raises(
        UserError,
        match=(
            rf"shard-00002-of-00003\.h5: not made as shard-00000-of-00003\.h5 is: "
            rf"`{key}` {value}"
        ),
    ):
        open_arrays(shards)


def test_a_renamed_shard_and_one_of_other_shapes(shards):
    path = shards / shard_name(2, 3)
    path.unlink()
    (shards / shard_name(1, 3)).rename(path)
    write(shards / shard_name(1, 3), slice(16, 33))
    with pytest.raises(UserError, match=r"shard-00002-of-00003\.h5: is shard 1 of 3"):
        open_arrays(shards)
    with ArrayWriter(
        path, {"tokens": ((5, 7, 8), np.int8)}, shard_attributes(path, ATTRIBUTES, {})
    ) as writer:
        writer.write(0, {"tokens": np.zeros((5, 7, 8))})
        writer.finish()
    with pytest.raises(
        UserError,
        match=r"shard-00002-of-00003\.h5: its array `(tokens|labels|scale)` is not as that",
    ):
        open_arrays(shards)


def test_truncated(shards):
    path = shards / shard_name(1, 3)
    os.truncate(path, path.stat().st_size - 5000)
    with pytest.raises(UserError, match=r"shard-00001-of-00003\.h5: .*truncated"):
        open_arrays(shards)


@pytest.mark.parametrize(
    ("array", "row"), [("tokens", 0), ("tokens", 13), ("scale", 5), ("labels", 16)]
)
def test_a_flipped_bit_is_named(shards, array, row):
    path = shards / shard_name(1, 3)
    entry = Arrays(path).entry(array)
    flip(path, entry.offset + row * entry.row_bytes)
    with pytest.raises(
        UserError, match=rf"shard-00001-of-00003\.h5: row {row} is damaged"
    ) as error:
        open_arrays(shards)
    assert "\n" not in str(error.value)
    open_arrays(shards, check=False)


def test_changed_attributes_and_checksums(whole):
    content = whole.read_bytes()
    place = content.index(b'"encoder": "vit"')
    whole.write_bytes(content[:place] + content[place:].replace(b"vit", b"vot", 1))
    with pytest.raises(UserError, match="damaged, its attributes or checksums"):
        open_arrays(whole)
    whole.write_bytes(content[:place] + content[place:].replace(b'"encoder"', b"'encoder'", 1))
    with pytest.raises(UserError, match="damaged, its attribute `vrpo` cannot be read"):
        open_arrays(whole)
    whole.write_bytes(content)
    flip(whole, checksums_module.read_layout(whole)["crc32"].offset + 9)
    with pytest.raises(UserError, match="damaged, its attributes or checksums"):
        open_arrays(whole)


def test_checked_once_and_again_after_any_change(whole, monkeypatch):
    assert is_remembered(whole)  # sealed by its writer
    stamp_path(whole).unlink()
    open_arrays(whole)
    assert is_remembered(whole)
    monkeypatch.setattr(checksums_module, "row_checksums", None)  # a second reading would need it
    open_arrays(whole)
    times = whole.stat()
    flip(whole, Arrays(whole).entry("tokens").offset)
    os.utime(whole, ns=(times.st_atime_ns, times.st_mtime_ns))  # size and time of writing as before
    monkeypatch.undo()
    assert not is_remembered(whole)
    with pytest.raises(UserError, match="row 0 is damaged"):
        open_arrays(whole)


def test_a_file_without_seal(whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("vrpo.data.hdf5.SEAL", "other")
        whole.unlink()
        write(whole)
    stamp_path(whole).unlink()
    with pytest.raises(UserError, match="has no checksums"):
        open_arrays(whole)


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))
