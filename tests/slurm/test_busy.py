"""Trainings on a cluster where jobs are cancelled, requeued and lose their nodes at random."""

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.fixtures import ROOT
from tests.fixtures.disturbances import DISTURBANCES, assert_no_step_is_lost
from tests.fixtures.slurm import WAIT, Flow, jobs_of, small, under_way
from tests.fixtures.workflow import TINY, snakemake, whole

CONFIGS = (TINY, ROOT / "tests/slurm/busy.yaml")
RUNS = [Path(f"results/tiny/runs/dit-none/seed{seed}") for seed in range(2)]
MILESTONES = [run / f"step{step:07d}.safetensors" for run in RUNS for step in (400, 800)]
TIMES = int(os.environ.get("VRPO_SLURM_DISTURBANCES", "6"))
pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(7200)]


def disturb(folder: Path, flow: Flow) -> Counter[str]:
    """End trainings that are under way, `TIMES` times at random moments; how often in which way."""
    choose, done = random.Random(0), Counter()
    while done.total() < TIMES and flow.process.poll() is None:
        time.sleep(choose.uniform(0.5, 3))
        training = [holder["job"] for run in RUNS if (holder := under_way(folder / run))]
        if training:
            way = choose.choice([*DISTURBANCES])
            done[way] += DISTURBANCES[way](choose.choice(training))
    return done


def test_every_milestone_arrives_and_no_step_is_lost(
    prepared: Path, latents: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    targets = map(str, MILESTONES)
    with Flow(prepared, "--retries", "100", *small(), "--", *targets, config=CONFIGS) as flow:
        done = disturb(prepared, flow)
        assert flow.process.wait(3 * WAIT) == 0, flow.text
    assert done.total() == TIMES, "the trainings were too short"
    for run in RUNS:
        assert_no_step_is_lost(prepared, [path for path in MILESTONES if path.parent == run])
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(latents / "results", undisturbed / "results")
    result = snakemake(undisturbed, "--cores", "1", "--", *map(str, MILESTONES), config=CONFIGS)
    assert result.returncode == 0, whole(result)
    for milestone in MILESTONES:
        assert (prepared / milestone).read_bytes() == (undisturbed / milestone).read_bytes()
    print(f"{len(jobs_of(prepared, 'train'))} jobs: {dict(done)}")
