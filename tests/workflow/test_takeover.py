"""Jobs that a killed workflow left in the queue: which a new start waits for, and which it ends."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from vrpo.workflow import takeover
from vrpo.workflow.takeover import Left, jobs_left, name_prefix, sort_out

COMMENT = "rule_train_wildcards_sit-none_0_0000008"


def due(folder: Path, rule: str = "train", group: str | None = None, changed: float = 100.0):
    """A job that the new start would submit, with an input of the time `changed`."""
    config = folder / "config.yaml"
    config.touch()
    os.utime(config, (changed, changed))
    name = SimpleNamespace(name=rule)
    return SimpleNamespace(rule=name, input=[str(config)], output=["step.safetensors"], group=group)


def left(number: str = "12", comment: str = COMMENT) -> Left:
    return Left(number, "RUNNING", 200.0, comment)


def test_a_job_that_makes_the_same_is_waited_for(tmp_path: Path) -> None:
    assert sort_out([left()], {COMMENT: due(tmp_path)}, ()) == ({COMMENT: left()}, [])


@pytest.mark.parametrize(
    ("jobs", "changes", "forced"),
    [
        ([left()], {"changed": 300.0}, ()),  # its config was changed after it was submitted
        ([left()], {}, ("train",)),
        ([left()], {}, ("step.safetensors",)),
        ([left("12"), left("13")], {}, ()),  # it is not known which of them makes the result
        ([left("12_1")], {}, ()),  # an array, whose other jobs have the same comment
        ([left(comment="rule_report_collect_fid_report")], {"rule": "fid", "group": "report"}, ()),
    ],
)
def test_others_that_do_the_work_of_this_start_end(jobs, changes, forced, tmp_path: Path) -> None:
    assert sort_out(jobs, {COMMENT: due(tmp_path, **changes)}, forced) == ({}, jobs)


def test_jobs_for_results_that_this_start_does_not_make_go_on(tmp_path: Path) -> None:
    other = left(comment="rule_sample_wildcards_sit-none_0_0000008_ode")
    assert sort_out([other], {COMMENT: due(tmp_path)}, ()) == ({}, [])


def test_only_jobs_of_these_results_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = name_prefix(Path("results/my.experiment"))
    assert prefix.startswith("my-experiment-") and len(prefix) < 40
    assert prefix != name_prefix(Path("elsewhere/my.experiment"))
    lines = [
        f"12|RUNNING|2026-01-01T10:00:00|{prefix}_1234|{COMMENT}",
        "13|PENDING|2026-01-01T10:00:00|other-5678_1234|rule_train",
    ]
    monkeypatch.setattr(takeover, "ask", lambda *command: "\n".join(lines))
    (found,) = jobs_left(prefix)
    assert (found.number, found.rule, found.comment) == ("12", "train", COMMENT)


def executor(**more):
    said, reported = [], []
    logger = SimpleNamespace(info=said.append, warning=said.append)
    fields = {
        "logger": logger,
        "run_uuid": "tiny_new",
        "slurm_logdir": Path("logs"),
        "_report_job_submission_threadsafe": lambda info: reported.append(info.external_jobid),
        "_report_job_error_threadsafe": lambda info, msg: reported.append(msg),
    }
    return SimpleNamespace(**fields | more), reported


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", ""])
def test_an_adopted_job_gets_the_new_name_and_is_not_submitted(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands, submitted = [], []

    def ask(*command: str) -> str:
        commands.append(command)
        return state

    monkeypatch.setattr(takeover, "ask", ask)
    monkeypatch.setattr(takeover, "comment_of", lambda job: COMMENT)
    monkeypatch.setattr(takeover, "get_job_wildcards", lambda job: "sit-none_0_0000008")
    job = due(tmp_path)
    job.is_group, job.jobid = lambda: False, 5
    plugin, reported = executor()
    kept = {COMMENT: left()}
    takeover._adopt_or_submit(plugin, submitted.append, kept, job)
    renamed = ("scontrol", "update", "JobId=12", "Name=tiny_new") in commands
    assert (renamed, reported, submitted) == ((True, ["12"], []) if state else (False, [], [job]))
    takeover._adopt_or_submit(plugin, submitted.append, kept, job)  # a second try
    assert submitted[-1] is job


def test_cancelled_jobs_that_do_not_end_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "ask", lambda *command: "12")
    monkeypatch.setattr(takeover.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(
        takeover.subprocess, "run", lambda words, check: subprocess.CompletedProcess(words, 0)
    )
    with pytest.raises(takeover.UserError, match="SLURM jobs 12 of an earlier start do not end"):
        takeover.end([left()], executor()[0])
