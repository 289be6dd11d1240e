"""The whole tiny experiment as SLURM jobs: requests, overhead and results."""

from pathlib import Path

import pytest

from vrpo.report.catalogue import CATALOGUE

from tests.fixtures.slurm import Flow, jobs, jobs_of, small
from tests.same_results import same


@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(3600)
def test_requests_are_as_configured_and_results_those_of_a_local_run(
    local: Path, tmp_path: Path
) -> None:
    with Flow(tmp_path, *small(gres="gpu:1")) as flow:
        assert flow.end() == 0, flow.text
    for warning in ("account", "arning", "rror"):
        assert warning not in flow.text
    train = jobs_of(tmp_path, "train")
    assert len(train) == 3
    for job in train.values():
        assert (job["TimeLimit"], job["MinMemoryNode"]) == ("00:30:00", "1500M")
        assert (job["NumCPUs"], job["TresPerNode"]) == ("1", "gres:gpu:1")
    for job in jobs_of(tmp_path, "sample").values():
        assert (job["TimeLimit"], job["MinMemoryNode"]) == ("00:20:00", "1200M")
        assert "TresPerNode" not in job
    (drawn,) = [job for job in jobs().values() if job.get("Comment", "").startswith("rule_report_")]
    assert drawn["MinMemoryNode"] == "2000M" and drawn["NumCPUs"] == "1"
    assert not any(jobs_of(tmp_path, entry.name) for entry in CATALOGUE if entry.name != "report")
    assert same(local / "results/tiny", tmp_path / "results/tiny")
