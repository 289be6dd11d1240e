"""Requests that SLURM cannot grant end in one line before the first job."""

import pytest

from vrpo.errors import PREFIX

from tests.fixtures.slurm import Flow, jobs_of, small


@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"gres": "gpu:3"}, "Requested node configuration is not available"),
        ({"gres": "gpu:3", "nodes": 2}, "Requested node configuration is not available"),
        ({"mem_mb": 10**9}, "Requested node configuration is not available"),
        ({"runtime": 150}, "runtime=150 is above the partition's limit of 120 minutes"),
        ({"slurm_partition": "none"}, "Invalid partition name specified"),
    ],
)
def test_one_line_and_no_job(changed, words, prepared) -> None:
    with Flow(prepared, *small(**changed), "--", "milestones") as flow:
        assert flow.end() == 2
    (line,) = [line for line in flow.text.splitlines() if line.startswith(PREFIX)]
    assert "train: SLURM cannot run a job with" in line and words in line
    assert "Traceback" not in flow.text
    assert not jobs_of(prepared, "train")
