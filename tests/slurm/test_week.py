"""The paper's plan of jobs, at a thousandth of its steps, on a cluster that ends jobs at random.

About an hour and a half on two cores; only `VRPO_SLURM_WEEK=1 make test-slurm` runs it.
"""

import contextlib
import os
import random
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from vrpo.config import load_experiment
from vrpo.report import style

from tests.fixtures import ROOT
from tests.fixtures.disturbances import DISTURBANCES, assert_no_step_is_lost
from tests.fixtures.slurm import Flow, jobs_in, small
from tests.fixtures.workflow import snakemake, whole
from tests.same_results import same

CONFIGS = (ROOT / "config/imagenet256.yaml", ROOT / "tests/slurm/week.yaml")
RESULTS = Path("results/week")
WAYS = (*DISTURBANCES, KILLED := "Snakemake killed")
EVERY = 45.0  # seconds between two disturbances, on average
pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.timeout(6 * 3600),
    pytest.mark.skipif(not os.environ.get("VRPO_SLURM_WEEK"), reason="VRPO_SLURM_WEEK is not set"),
]


def start(folder: Path) -> Flow:
    """The workflow with all its jobs in the queue."""
    return Flow(folder, "--retries", "100", *small(), config=CONFIGS)


def disturbed(folder: Path) -> pd.DataFrame:
    """Run it to its end while jobs, and now and then Snakemake, end at random; what was seen."""
    choose, seen, began = random.Random(0), [], time.monotonic()
    due = began + choose.uniform(0.0, 2 * EVERY)
    with contextlib.ExitStack() as flows:
        flow = flows.enter_context(start(folder))
        while flow.process.poll() is None:
            time.sleep(5)
            of_state = {number: job["JobState"] for number, job in jobs_in(folder).items()}
            running = [number for number, state in of_state.items() if state == "RUNNING"]
            row = {"minutes": round((time.monotonic() - began) / 60, 2), "event": ""}
            row |= {"running": len(running), "waiting": [*of_state.values()].count("PENDING")}
            row["milestones"] = len([*(folder / RESULTS).glob("runs/*/*/step*.safetensors")])
            row["scores"] = len([*(folder / RESULTS).glob("metrics/*/*/*/*.json")])
            seen.append(row)
            if time.monotonic() < due or not running or flow.process.poll() is not None:
                continue
            due = time.monotonic() + choose.uniform(0.0, 2 * EVERY)
            way = choose.choice(WAYS)
            if way == KILLED:
                flow.process.kill()
                flow.process.wait()
                flow = flows.enter_context(start(folder))
                row["event"] = way
            elif DISTURBANCES[way](choose.choice(running)):
                row["event"] = way
        assert flow.process.returncode == 0, flow.text
    return pd.DataFrame(seen)


def draw(seen: pd.DataFrame, output: Path) -> None:
    """When what ended, and below the files of milestones and scores that there were."""
    with style.applied():
        figure = Figure(figsize=(style.WIDTH, 3.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
        events = seen[seen["event"] != ""]
        for height, name in enumerate(reversed(WAYS)):
            times = events.loc[events["event"] == name, "minutes"]
            above.plot(times, [height] * len(times), "|", color="black", markersize=7)
        above.set(ylim=(-0.6, len(WAYS) - 0.4))
        above.set_yticks(range(len(WAYS)), [*reversed(WAYS)])
        for name, colour in zip(("milestones", "scores"), style.OTHER_COLOURS, strict=False):
            below.plot(seen["minutes"], seen[name], color=colour, label=name)
        below.set(xlabel="minutes", ylabel="files")
        below.legend(frameon=False)
        style.save(figure, seen, output)


def test_a_week_on_a_busy_cluster(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    seen = disturbed(tmp_path)
    draw(seen, tmp_path / "week.png")
    experiment = load_experiment(*CONFIGS)
    for run in experiment.runs:
        folder = RESULTS / f"runs/{run}/seed0"
        steps = [folder / f"step{step:07d}.safetensors" for step in experiment.milestones]
        assert_no_step_is_lost(tmp_path, steps)
    known = jobs_in(tmp_path).values()
    submitted = Counter(job["Comment"] for job in known)
    again = sum(int(job["Restarts"]) for job in known)
    events = seen.loc[seen["event"] != "", "event"].value_counts().to_dict()
    assert set(events) == set(WAYS) and again > 0 and submitted.total() > len(submitted)
    print(f"{seen['minutes'].max():.0f} minutes, {events}: {len(submitted)} jobs of the plan were")
    print(f"{submitted.total()} jobs of SLURM, which ran again {again} times;")
    print(f"most jobs for one of the plan: {submitted.most_common(3)}")
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    result = snakemake(undisturbed, "--cores", "all", config=CONFIGS)
    assert result.returncode == 0, whole(result)
    assert same(undisturbed / RESULTS, tmp_path / RESULTS)
