"""A training on both nodes of the cluster, one of which is lost in the middle."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vrpo.holders import is_running, read_holder

from tests.fixtures.slurm import (
    LOG,
    LONGER,
    MINUTES,
    RUN,
    TRAINED,
    Flow,
    jobs,
    jobs_of,
    lose,
    paused,
    small,
    until,
)
from tests.fixtures.workflow import TINY

OTHERS = "state", "*.csv", "step*", "*.jsonl", "backend.json"
pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(3600)]


def test_after_a_lost_node_the_same_job_resumes_with_the_bytes_of_two_ranks(
    prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arguments = [*small(nodes=2), "--", str(TRAINED)]
    with Flow(prepared, *arguments, config=(TINY, LONGER)) as flow:
        first, job = paused(prepared, flow)
        lose("two")
        os.kill(first, signal.SIGCONT)
        lost = time.monotonic()
        until(lambda: jobs()[job]["JobState"] != "RUNNING" or None, flow)
        assert time.monotonic() - lost < 60 * MINUTES
        assert not is_running(read_holder(prepared / RUN / "state/lock") or {})
        subprocess.run(["slurmd", "-N", "two"], check=True)
        assert flow.end() == 0, flow.text
    assert set(jobs_of(prepared, "train")) == {job} and jobs()[job]["Restarts"] == "1"
    assert jobs()[job]["NumNodes"] == "2"
    kept = (prepared / LOG.with_name(f"{LOG.name}.1")).read_text()
    assert "steps 0 to 300 on cpu; batch 16 global = 2 ranks" in kept
    assert "a node of the job does not answer; SLURM runs this job again" in kept
    assert "steps 0 to" not in (prepared / LOG).read_text()
    one_node = tmp_path_factory.mktemp("one_node")
    ignored = shutil.ignore_patterns(*OTHERS)
    shutil.copytree(prepared / "results", one_node / "results", ignore=ignored)
    words = [f"--config={RUN}/config.yaml", "--latents=results/tiny/latents", "--log-every=4"]
    words += ["--milestone=300", f"--output={TRAINED}", "--device=cpu"]
    command = [sys.executable, "-m", "vrpo", "--gpus", "2", "train", *words]
    subprocess.run(command, cwd=one_node, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    assert (one_node / TRAINED).read_bytes() == (prepared / TRAINED).read_bytes()
