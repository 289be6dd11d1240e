"""The benchmark of the data path runs, and counts the bytes of each read."""

import json

import pytest
import torch

from benchmarks.data import bench_data, table


@pytest.mark.timeout(300)
def test_every_part_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.data.SECONDS", 0.05)
    monkeypatch.setattr("benchmarks.data.CACHED_ROWS", 256)
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
