"""Requests to SLURM are checked before the first job."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vrpo.errors import UserError
from vrpo.workflow import slurm
from vrpo.workflow.slurm import check_jobs, limit_minutes

ANSWERS = {
    "sinfo": '[ "$*" = "${*#*--states}" ] && echo $LIMIT || echo $OUT_OF_SERVICE',
    "sbatch": '[ -z "$REFUSAL" ] || { echo "$REFUSAL" >&2; exit 1; }',
    "sacctmgr": "echo lab",
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A cluster that grants everything; the fixture changes its answers."""
    for name, code in ANSWERS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("LIMIT", "12:00:00")
    monkeypatch.setenv("OUT_OF_SERVICE", "")
    return monkeypatch


def check(**changes: object) -> list[str]:
    """Check a training's request; returns the warnings."""
    said: list[str] = []
    resources = {"mem_mb": 4000, "runtime": 720, "gpu": 8, "nodes": 1} | changes
    fields = dict(resources)
    job = SimpleNamespace(
        rule=SimpleNamespace(name="train"),
        is_group=lambda: False,
        threads=4,
        resources=type("Resources", (dict,), {"__getattr__": dict.__getitem__})(fields),
    )
    executor = SimpleNamespace(
        logger=SimpleNamespace(warning=said.append),
        workflow=SimpleNamespace(executor_settings=None),
        get_partition_arg=lambda job: " -p gpu",
    )
    check_jobs(executor, [job, job])
    return said


def test_a_request_that_is_granted(cluster: pytest.MonkeyPatch) -> None:
    assert check() == [] == check(slurm_account="lab")


@pytest.mark.parametrize(
    ("answers", "changes", "words"),
    [
        ({}, {"runtime": 721}, "runtime=721 is above the partition's limit of 720 minutes"),
        ({"REFUSAL": "allocation failure: No such node"}, {}, "train: .* --gpus=8 .No such node"),
        ({}, {"slurm_account": "nope"}, "slurm_account=nope: SLURM does not know it .*lab"),
        ({}, {"nodes": 0}, "train: .*'nodes' must be an integer"),
        ({"OUT_OF_SERVICE": "1"}, {"runtime": 721}, "is above the partition's limit"),
    ],
)
def test_one_that_is_not(answers, changes, words, cluster: pytest.MonkeyPatch) -> None:
    for name, value in answers.items():
        cluster.setenv(name, value)
    with pytest.raises(UserError, match=words) as caught:
        check(**changes)
    assert "\n" not in str(caught.value)


def test_while_nodes_are_out_of_service_a_refusal_is_a_warning(cluster: pytest.MonkeyPatch) -> None:
    cluster.setenv("REFUSAL", "allocation failure: Requested node configuration is not available")
    cluster.setenv("OUT_OF_SERVICE", "2")
    (warning,) = check()
    assert "perhaps because nodes are out of service" in warning


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("30:00", 30), ("12:00:00", 720), ("1-12:30:30", 2190.5), ("infinite", float("inf"))],
)
def test_time_limits(text: str, minutes: float) -> None:
    assert limit_minutes(text) == minutes


def test_files_that_are_not_there_yet_leave_a_request_unchecked(
    cluster: pytest.MonkeyPatch,
) -> None:
    cluster.setenv("REFUSAL", "allocation failure: No such node")
    assert slurm.limit_minutes("") == float("inf")
    assert check(mem_mb="<TBD>") == []
