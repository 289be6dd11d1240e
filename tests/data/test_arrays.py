import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import vrpo
from vrpo.data import arrays as arrays_module
from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.errors import UserError
from vrpo.files import partial_path

COUNT = 100
RANDOM = np.random.default_rng(0)
CONTENT = {
    "mean": RANDOM.normal(size=(COUNT, 3, 5)).astype(np.float32),
    "scale": RANDOM.normal(size=(COUNT, 7)).astype(np.float16),
    "tokens": RANDOM.integers(-127, 128, (COUNT, 7, 9), dtype=np.int8),
    "labels": RANDOM.integers(0, 10, COUNT),
}
SHAPES = {name: (values.shape, values.dtype) for name, values in CONTENT.items()}


def write(path, attributes=None, batch=16, stop_at=COUNT):
    with ArrayWriter(path, SHAPES, attributes or {"made by": "test"}) as writer:
        first = writer.done
        for rows in writer.batches(batch):
            if rows.start >= stop_at:
                return first
            writer.write(rows.start, {name: values[rows] for name, values in CONTENT.items()})
        writer.finish({"error": [0.5, 1.0]})
    return first


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.h5"
    write(path)
    return path


def test_any_tool_reads_what_we_write(whole):
    with h5py.File(whole) as file:
        for name, values in CONTENT.items():
            dataset = file[name]
            assert (
                dataset.chunks is None
                and dataset.compression is None
                and dataset.id.get_offset() % 4096 == 0
            )
            assert dataset.dtype == values.dtype
            np.testing.assert_array_equal(dataset[:], values)


def test_reading_back(whole):
    arrays = Arrays(whole)
    assert sorted(arrays.keys()) == sorted(CONTENT) and "mean" in arrays and "std" not in arrays
    assert arrays.attributes == {"made by": "test", "error": [0.5, 1.0]}
    for name, values in CONTENT.items():
        assert arrays.shape(name) == values.shape
        np.testing.assert_array_equal(arrays[name], values)
    assert not arrays["mean"].flags.writeable
    copy = pickle.loads(pickle.dumps(arrays))
    assert len(pickle.dumps(arrays)) < 4000  # the maps do not travel
    np.testing.assert_array_equal(copy["tokens"], CONTENT["tokens"])


def test_bytes_do_not_depend_on_time_or_batches(tmp_path, whole):
    time.sleep(1.1)  # HDF5's times have a resolution of a second
    again = tmp_path / "again.h5"
    write(again, batch=7)
    assert again.read_bytes() == whole.read_bytes()


def test_interrupted_and_continued(tmp_path, whole):
    path = tmp_path / "resumed.h5"
    for stop in (16, 16, 48, 96):
        write(path, stop_at=stop)
        assert not path.exists()
    assert 0 < write(path) <= 96
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        ".resumed.h5.verified",
        ".whole.h5.verified",
        "resumed.h5",
        "whole.h5",
    ]


def test_continued_with_another_batch_size(tmp_path, whole):
    path = tmp_path / "resumed.h5"
    write(path, batch=16, stop_at=48)
    write(path, batch=11)
    assert path.read_bytes() == whole.read_bytes()


def test_a_partial_file_of_other_content_is_thrown_away(tmp_path, whole):
    path = tmp_path / "other.h5"
    write(path, attributes={"made by": "another encoder"}, stop_at=48)
    assert write(path) == 0
    assert path.read_bytes() == whole.read_bytes()


def test_killed_before_the_rename(tmp_path, whole, monkeypatch):
    path = tmp_path / "late.h5"

    def die(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(arrays_module, "commit", die)
        write(path)
    assert not path.exists()
    assert write(path) == COUNT
    assert path.read_bytes() == whole.read_bytes()


CHILD = """
import os, sys
import numpy as np
from vrpo.data.arrays import ArrayWriter
from tests.fixtures.striking import strike_at
path, kill_at = sys.argv[1], int(sys.argv[2])
strike_at(os, "pwrite", kill_at, "half")
rows = np.arange(4000, dtype=np.float32).reshape(200, 20)
with ArrayWriter(path, {"a": (rows.shape, "f4"), "b": (rows.shape, "f8")}, {"x": 1}) as writer:
    for part in writer.batches(10):
        writer.write(part.start, {"a": rows[part], "b": -rows[part]})
    writer.finish()
"""


def test_sigkill_in_the_middle_of_a_write(tmp_path):
    def run(name, kill_at):
        command = [sys.executable, "-c", CHILD, str(tmp_path / name), str(kill_at)]
        return subprocess.run(
            command,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(vrpo.__file__).parents[1])},
        ).returncode

    assert run("whole.h5", -1) == 0
    for kill_at in (1, 2, 9, 14):
        assert run("killed.h5", kill_at) == -signal.SIGKILL
        assert not (tmp_path / "killed.h5").exists()
    assert run("killed.h5", -1) == 0
    assert (tmp_path / "killed.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_two_writers_of_one_file(tmp_path):
    path = tmp_path / "a.h5"
    with (
        ArrayWriter(path, SHAPES, {}),
        pytest.raises(UserError, match="another process is writing"),
        ArrayWriter(path, SHAPES, {}),
    ):
        pass


def test_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"a\.h5: the disk is full"):
        patch.setattr(arrays_module.os, "pwrite", full)
        write(path)
    with (
        pytest.raises(UserError, match="needs 4,000,000,000,004,000 bytes"),
        ArrayWriter(path, {"a": ((1000, 10**12), np.float32)}, {}),
    ):
        pass
    assert not path.exists() and not partial_path(path).with_name("a.h5").exists()
    write(path)


def test_damaged_and_foreign_files(tmp_path, whole):
    with pytest.raises(UserError, match="no such file"):
        Arrays(tmp_path / "none.h5")
    content = whole.read_bytes()
    for length in (0, 100, 5000, len(content) - 1):
        cut = tmp_path / "cut.h5"
        cut.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"cut\.h5: .*(truncated|not an HDF5 file)") as error:
            Arrays(cut)
        assert "\n" not in str(error.value)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["a"] = np.arange(3)
    with pytest.raises(UserError, match="not written by this pipeline"):
        Arrays(foreign)
    with h5py.File(foreign, "w") as file:
        file.create_dataset("a", data=np.arange(30), chunks=(3,), compression="gzip")
    with pytest.raises(UserError, match="not contiguous"):
        Arrays(foreign)
    with pytest.raises(UserError, match="holds no array `images`"):
        Arrays(whole)["images"]


def test_misuse_is_refused(tmp_path):
    with ArrayWriter(tmp_path / "a.h5", {"a": ((10, 2), np.int8)}, {}) as writer:
        with pytest.raises(ValueError, match="are due"):
            writer.write(3, {"a": np.zeros((1, 2))})
        with pytest.raises(ValueError, match="do not fit"):
            writer.write(0, {"a": np.zeros((1, 3))})
        with pytest.raises(ValueError, match="10 of 10 rows are missing"):
            writer.finish()
    with pytest.raises(ValueError, match="equally many"):
        ArrayWriter(tmp_path / "a.h5", {"a": ((10, 2), np.int8), "b": ((9,), np.int8)}, {})
