"""The measurement of the data's way runs, and its sparse files are whole files of zeros."""

import json

import numpy as np
import pytest
import torch

from vrpo.bench.data import bench_data, table
from vrpo.bench.sparse import write_sparse
from vrpo.data.checksums import stamp_path
from vrpo.data.shards import open_arrays


@pytest.mark.timeout(300)
def test_every_part_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("vrpo.bench.data.SECONDS", 0.05)
    monkeypatch.setattr("vrpo.bench.data.CACHED_ROWS", 256)
    results = bench_data(
        images=8,
        gigabytes=5.0,
        device=torch.device("cpu"),
        folder=tmp_path,
        output=tmp_path / "bench.json",
    )
    assert json.loads((tmp_path / "bench.json").read_text())["rows"] == results["rows"]
    assert len(results["rows"]) == 9 and all(
        row["images_per_second"] > 0 for row in results["rows"]
    )
    by_name = {row["what"]: row["bytes_per_image"] for row in results["rows"]}
    assert (
        by_name["read int8 tokens, page-cached"]
        == 256 * 768 + 256 * 2
        == by_name["the same, of a file of 5 GB"]
    )
    assert (
        by_name["read float16 tokens, page-cached"] == 2 * 256 * 768
        and by_name["read float16 moments, page-cached"] == 2 * 2 * 4 * 32 * 32
    )
    assert "SiT-XL/2 700" in table(results) and sorted(
        path.name for path in tmp_path.iterdir()
    ) == ["bench.json"]


def test_sparse_files_are_whole_and_take_no_disk(tmp_path):
    shapes = {"tokens": ((5000, 64, 64), "int8"), "scale": ((5000, 64), "float16")}
    path = write_sparse(tmp_path / "sparse.h5", shapes, {"images": "none"})
    assert path.stat().st_size > 20e6 and path.stat().st_blocks * 512 < 1e6
    stamp_path(path).unlink()
    arrays = open_arrays(path)  # which checks every row
    assert not arrays.rows("tokens", np.array([4999, 0])).any() and arrays.attributes == {
        "images": "none"
    }
