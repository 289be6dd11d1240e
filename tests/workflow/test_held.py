"""Jobs that SLURM holds after a failed launch are released, and not for ever."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vrpo.workflow import held

QUEUE = [
    "11|launch failed requeued held|tiny-b87_1234",
    "12|launch_failed_requeued_held|tiny-b87_1234",  # as other versions write it
    "13|JobHeldUser|tiny-b87_1234",  # held by its user, on purpose
    "14|Priority|tiny-b87_1234",
    "15|launch failed requeued held|other-1_1234",
]


class Cluster:
    """Answers of SLURM, and what was asked and said."""

    def __init__(self, queue: list[str] | None, releases: bool = True) -> None:
        self.queue, self.releases = queue, releases
        self.released: list[str] = []
        self.said: list[str] = []
        logger = SimpleNamespace(info=self.said.append, warning=self.said.append)
        self.executor = SimpleNamespace(run_uuid="tiny-b87_1234", logger=logger)

    def ask(self, *command: str) -> str | None:
        if command[0] == "squeue":
            return None if self.queue is None else "\n".join(self.queue)
        assert command[:2] == ("scontrol", "release")
        self.released.append(command[2])
        return "" if self.releases else None


def test_only_failed_launches_of_the_workflow_are_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(QUEUE)
    monkeypatch.setattr(held, "ask", cluster.ask)
    held.HeldJobs(cluster.executor).look()
    assert cluster.released == ["11", "12"]
    assert cluster.said == [
        f"SLURM job {number} did not start on its node and was released." for number in (11, 12)
    ]


@pytest.mark.parametrize("releases", [True, False])
def test_it_is_said_once_that_a_job_stays_held(
    releases: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some releases, or where SLURM refuses the first."""
    cluster = Cluster(QUEUE[:1], releases)
    jobs = held.HeldJobs(cluster.executor)
    monkeypatch.setattr(held, "ask", cluster.ask)
    for _ in range(2 * held.RELEASES):
        jobs.look()
    assert len(cluster.released) == (held.RELEASES if releases else 1)
    (last,) = (line for line in cluster.said if "released" not in line)
    assert "SLURM job 11 is held" in last and "`scancel 11` for another try" in last


def test_without_an_answer_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(None)
    monkeypatch.setattr(held, "ask", cluster.ask)
    held.HeldJobs(cluster.executor).look()
    assert not cluster.said
