"""Trainings on a cluster where jobs are cancelled, requeued and lose their nodes at random."""

import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures import ROOT
from tests.fixtures.slurm import WAIT, Flow, jobs, jobs_of, small, under_way
from tests.fixtures.workflow import TINY, snakemake, whole

CONFIGS = (TINY, ROOT / "tests/slurm/busy.yaml")
RUNS = [Path(f"results/tiny/runs/dit-none/seed{seed}") for seed in range(2)]
MILESTONES = [run / f"step{step:07d}.safetensors" for run in RUNS for step in (400, 800)]
TIMES = int(os.environ.get("VRPO_SLURM_DISTURBANCES", "6"))
pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(7200)]


def down(job: str) -> bool:
    """Take the job's node down, and give it back where it does not come back by itself."""
    node = jobs()[job].get("BatchHost", "one")
    done = asked("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    time.sleep(5)
    asked("scontrol", "update", f"NodeName={node}", "State=RESUME")
    return done


def asked(*words: str) -> bool:
    """Whether SLURM did what was asked; the job may have ended just before."""
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


DISTURBANCES: dict[str, Callable[[str], bool]] = {
    "cancelled": lambda job: asked("scancel", job),
    "requeued": lambda job: asked("scontrol", "requeue", job),
    "node down": down,
}


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


def tries(folder: Path, run: Path, milestone: Path) -> list[tuple[int, str]]:
    """Of each try that began to train, in order: its first step, and its whole log."""
    place = folder / str(run).replace("/runs/", "/logs/train/")
    logs = [*place.glob(f"{milestone.stem}.log.*"), place / f"{milestone.stem}.log"]
    texts = [log.read_text() for log in sorted(logs, key=lambda log: log.stat().st_mtime)]
    return [
        (int(found[1]), text) for text in texts if (found := re.search(r"steps (\d+) to", text))
    ]


def test_every_milestone_arrives_and_no_step_is_lost(
    prepared: Path, latents: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    targets = map(str, MILESTONES)
    with Flow(prepared, "--retries", "100", *small(), "--", *targets, config=CONFIGS) as flow:
        done = disturb(prepared, flow)
        assert flow.process.wait(3 * WAIT) == 0, flow.text
    assert done.total() == TIMES, "the trainings were too short"
    for run in RUNS:
        saved = 0
        for milestone in (path for path in MILESTONES if path.parent == run):
            for first, log in tries(prepared, run, milestone):
                assert "is already running" not in log and "Traceback" not in log
                assert first >= saved, "a later try begins at the state of the one before"
                ends = re.search(r"after step (\d+), state is saved", log)
                saved = int(ends[1]) if ends else first
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(latents / "results", undisturbed / "results")
    result = snakemake(undisturbed, "--cores", "1", "--", *map(str, MILESTONES), config=CONFIGS)
    assert result.returncode == 0, whole(result)
    for milestone in MILESTONES:
        assert (prepared / milestone).read_bytes() == (undisturbed / milestone).read_bytes()
    print(f"{len(jobs_of(prepared, 'train'))} jobs: {dict(done)}")
