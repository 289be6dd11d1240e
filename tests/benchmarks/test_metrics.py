"""The benchmark of the scores runs, on few images."""

import json

import pytest

from benchmarks.metrics import bench_metrics, table


@pytest.mark.timeout(900)
def test_bench_compares_equal_scores(tmp_path):
    """FID, precision and recall of both are of the same images and network, so they agree.

    Their Inception scores are defined differently.
    """
    results = bench_metrics(images=12, threads=1, at_scale=False, output=tmp_path / "bench.json")
    ours, theirs = results["vrpo"]["scores"], results["torch-fidelity"]["scores"]
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert (ours["precision"], ours["recall"]) == pytest.approx(
        (theirs["precision"], theirs["recall"])
    )
    assert json.loads((tmp_path / "bench.json").read_text()).keys() == results.keys()
    assert "torch-fidelity" in table(results)
