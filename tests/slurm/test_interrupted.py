"""A training whose job is ended in every way ends in the weights of an undisturbed one."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.fixtures.slurm import (
    LOG,
    LONGER,
    MINUTES,
    RUN,
    TRAINED,
    Flow,
    jobs,
    jobs_of,
    paused,
    preempt,
    slurm,
    small,
    until,
)
from tests.fixtures.workflow import TINY, snakemake, whole

CONFIGS = (TINY, LONGER)
pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(3600)]


def test_requeued_preempted_cancelled_and_without_its_controller(
    prepared: Path, latents: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arguments = [*small(gres="gpu:1"), "--", str(TRAINED)]
    with Flow(prepared, *arguments, config=CONFIGS) as flow:
        first, job = paused(prepared, flow)
        slurm("scontrol", "requeue", job)
        second, again = paused(prepared, flow, first)
        assert again == job
        urgent = preempt()
        third, again = paused(prepared, flow, second)
        assert again == job and jobs()[job]["Restarts"] == "2"
        assert jobs()[urgent]["JobState"] == "COMPLETED"
        slurm("scancel", job)
        fourth, other = paused(prepared, flow, third)
        assert other != job
        flow.process.kill()
        flow.process.wait()
    with Flow(prepared, *arguments, config=CONFIGS) as flow:
        adopted = f"is SLURM job {other} of an earlier start"
        until(lambda: adopted in flow.text or None, flow)
        os.kill(fourth, signal.SIGCONT)
        assert flow.end() == 0, flow.text
    assert set(jobs_of(prepared, "train")) == {job, other}, "no job was submitted twice"
    kept = (prepared / LOG).parent.iterdir()
    logs = sorted(path.name for path in kept if path.suffix != ".done")
    assert logs == [LOG.name, *(f"{LOG.name}.{n}" for n in (1, 2, 3))]
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(latents / "results", undisturbed / "results")
    result = snakemake(undisturbed, "--cores", "1", "--", str(TRAINED), config=CONFIGS)
    assert result.returncode == 0, whole(result)
    assert (prepared / TRAINED).read_bytes() == (undisturbed / TRAINED).read_bytes()


def test_at_the_time_limit_the_state_is_saved_and_the_same_job_resumes(prepared: Path) -> None:
    """However often: it costs no try."""
    target = RUN / "step9000000.safetensors"
    endless = prepared / "endless.yaml"
    endless.write_text("milestones: [9000000]\nruns: {dit-none: {milestones: [9000000]}}\n")
    requests = small(runtime=MINUTES)
    with Flow(prepared, *requests, "--", str(target), config=(TINY, endless)) as flow:
        log = prepared / LOG.with_name("step9000000.log")
        kept = log.with_name("step9000000.log.1")
        until(lambda: kept.exists() or None, flow)
        assert "ended by the wall-time budget" in kept.read_text()
        assert "SLURM runs this job again" in kept.read_text()
        (job,) = jobs_of(prepared, "train").values()
        assert job["Restarts"] == "1"
        until(lambda: "steps " in log.read_text() or None, flow)
        assert "steps 0 to" in kept.read_text() and "steps 0 to" not in log.read_text()
        assert "Trying to restart" not in flow.text
