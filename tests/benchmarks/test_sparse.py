"""Sparse files are whole files of zeros."""

import numpy as np

from benchmarks.sparse import write_sparse
from vrpo.data.checksums import stamp_path
from vrpo.data.shards import open_arrays


def test_sparse_files_are_whole_and_take_no_disk(tmp_path):
    shapes = {"tokens": ((5000, 64, 64), "int8"), "scale": ((5000, 64), "float16")}
    path = write_sparse(tmp_path / "sparse.h5", shapes, {"images": "none"})
    assert path.stat().st_size > 20e6 and path.stat().st_blocks * 512 < 1e6
    stamp_path(path).unlink()
    arrays = open_arrays(path)  # which checks every row
    assert not arrays.rows("tokens", np.array([4999, 0])).any() and arrays.attributes == {
        "images": "none"
    }
