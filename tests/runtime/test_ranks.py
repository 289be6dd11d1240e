"""Several ranks of one stage: said once, errors of any rank shown, threads shared."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vrpo.cli.arguments import use_threads
from vrpo.runtime.launch import outcome, run_ranks
from vrpo.runtime.ranks import THREAD_VARIABLES, own_threads, share_threads

SPEAKING = """
import logging, sys, warnings
from tqdm import tqdm
from vrpo.runtime.ranks import set_up_logging
set_up_logging()
library = logging.getLogger("library")
library.setLevel(logging.DEBUG)
library.addHandler(logging.StreamHandler())
library.propagate = False
logging.getLogger("vrpo").info("information")
logging.getLogger("vrpo").warning("a caution")
library.warning("a library's caution")
warnings.warn("deprecated")
for _ in tqdm(range(3), desc="bar"):
    pass
for _ in tqdm(range(3), desc="forced bar", disable=False):
    pass
logging.getLogger("vrpo").error("an error")
library.error("a library's error")
"""
UNIMPORTANT = ("information", "a caution", "a library's caution", "deprecated", "forced bar")


def said_by(rank: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", SPEAKING],
        env={**os.environ, "RANK": rank, "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout + result.stderr


def test_the_first_rank_speaks_for_all_and_errors_of_any_are_shown() -> None:
    first, second = said_by("0"), said_by("1")
    for words in (*UNIMPORTANT, "an error", "a library's error"):
        assert words in first
    for words in UNIMPORTANT:
        assert words not in second
    assert "rank 1: an error" in second and "a library's error" in second and "bar" not in second


@pytest.mark.parametrize(
    ("threads", "ranks", "each"), [(16, 8, 2), (16, 3, 5), (16, 1, 16), (1, 2, 1), (4, 8, 1)]
)
def test_ranks_share_the_threads_of_the_job(
    threads: int, ranks: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In PyTorch, and in other libraries' environment variables.

    Never more than the job has, but one each.
    """
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert own_threads(threads) == each and each * ranks <= max(threads, ranks)
    before = torch.get_num_threads()
    use_threads(threads)
    assert torch.get_num_threads() == each
    torch.set_num_threads(before)
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, str(threads))
    share_threads(ranks)
    assert {os.environ[name] for name in THREAD_VARIABLES} == {str(each)}


def test_threads_without_a_number_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "4,2")
    share_threads(8)
    assert os.environ["OMP_NUM_THREADS"] == "1", "as torchrun would set it, with a warning"
    assert os.environ["MKL_NUM_THREADS"] == "4,2" and "NUMEXPR_NUM_THREADS" not in os.environ


REFUSED, OTHER = ("vrpo: error: no such file", 2), ("vrpo: error: the disk is full", 2)
STOPPED, GONE = (
    ("vrpo: training: ended by SIGTERM", 75),
    ("vrpo: ended because another rank is gone", 75),
)


@pytest.mark.parametrize(
    ("failures", "status", "lines"),
    [
        ({0: (2, REFUSED), 1: (2, REFUSED)}, 2, []),  # the first rank has shown it
        ({0: (-signal.SIGTERM, None), 1: (2, REFUSED)}, 2, [REFUSED[0]]),
        (
            {0: (-signal.SIGTERM, REFUSED), 1: (75, GONE)},
            2,
            [],
        ),  # ended between its message and its end
        ({0: (75, GONE), 1: (2, OTHER)}, 2, [OTHER[0]]),
        ({0: (-signal.SIGKILL, None), 1: (2, OTHER), 2: (2, OTHER)}, 2, [OTHER[0]]),
        ({0: (75, STOPPED), 1: (75, STOPPED)}, 75, []),
        ({0: (-signal.SIGTERM, None), 1: (75, STOPPED)}, 75, [STOPPED[0]]),
        (
            {0: (75, GONE), 1: (1, None)},
            1,
            ["vrpo: error: rank 1 ended with exit status 1; what it said is above"],
        ),
        (
            {0: (75, GONE), 2: (-signal.SIGKILL, None)},
            1,
            ["vrpo: error: rank 2 was ended by SIGKILL"],
        ),
        (
            {0: (-signal.SIGTERM, None), 1: (1, None)},
            1,
            ["vrpo: error: rank 1 ended with exit status 1; what it said is above"],
        ),
        ({0: (-signal.SIGTERM, None)}, 1, ["vrpo: error: rank 0 was ended by SIGTERM"]),
    ],
)
def test_each_cause_is_said_once(failures: dict, status: int, lines: list[str]) -> None:
    assert outcome(failures) == (status, lines)


FAILING = """
import os, sys
import typer
import vrpo.cli
from vrpo.errors import UserError

def fail(where: str) -> None:
    rank = os.environ["RANK"]
    print("threads", os.environ["OMP_NUM_THREADS"])
    if where == "crash" and rank == "1":
        raise ValueError("a fault of the second rank")
    if where in ("all", rank):
        raise UserError("data.root: missing; name it")

vrpo.cli.app = typer.Typer(pretty_exceptions_enable=False)
vrpo.cli.app.command()(fail)
vrpo.cli.main()
"""


@pytest.mark.parametrize(
    ("where", "status"), [("all", 2), ("0", 2), ("1", 2), ("crash", 1), ("nowhere", 0)]
)
def test_errors_of_ranks(
    where: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    """Bad input is one line, whichever ranks it stops; a crash shows its traceback and its rank."""
    (tmp_path / "failing.py").write_text(FAILING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    share_threads(2)
    assert run_ranks(2, [str(tmp_path / "failing.py"), where], ["--standalone"]) == status
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.strip()]
    if where == "crash":
        assert "ValueError: a fault of the second rank" in lines
        assert lines[-1] == "vrpo: error: rank 1 ended with exit status 1; what it said is above"
    else:
        assert lines == (["vrpo: error: data.root: missing; name it"] if status else [])
    assert set(out.split()) <= {"threads", "3"}, out


def test_what_a_rank_reports_is_what_torchrun_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    from vrpo.runtime.ranks import report_error, reported_error

    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    report_error("vrpo: error: here", 2)
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(file))
    assert reported_error(failure.error_file_data) == ("vrpo: error: here", 2)
    assert "vrpo: error: here" in str(ChildFailedError("vrpo", {0: failure}))
    crash = {
        "message": {"message": "ValueError", "extraInfo": {"py_callstack": "", "timestamp": "1"}}
    }
    assert reported_error(json.loads(json.dumps(crash))) is None
