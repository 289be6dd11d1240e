"""Failed jobs, by the ends of their logs."""

import os
from pathlib import Path

import pytest

from vrpo.workflow.failures import TAIL, error_of, failures

TRACEBACK = """Traceback (most recent call last):
  File "a.py", line 3, in <module>
    1 / 0
    ~~^~~
"""


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("12:00:00 step 4\nvrpo: error: a.h5: truncated; delete it\n", "vrpo: error: a.h5: trunc"),
        ("vrpo: error: a: is wrong\na: is wrong, too\n", "vrpo: error: a: is wrong"),
        (f"12:00:00 step 4\n{TRACEBACK}ZeroDivisionError: division\n", "ZeroDivisionError: div"),
        (f"{TRACEBACK}E: one\n\n{TRACEBACK}RuntimeError: two\nmore of it\n", "RuntimeError: two"),
        (f"[rank1]: {TRACEBACK}ValueError: no", "ValueError: no"),
        ("evaluate: 50%|##  \rvrpo: error: a: NaN features\n", "vrpo: error: a: NaN features"),
        (TRACEBACK, "Traceback"),
    ],
)
def test_an_error_ends_the_log(log: str, error: str) -> None:
    assert error_of(log).startswith(error)


@pytest.mark.parametrize(
    "log",
    [
        "",
        "\n",
        "12:00:00 step 4\n",
        "vrpo: training: ended by SIGTERM after step 4, state is saved; the same command goes on",
        f"{TRACEBACK}ZeroDivisionError: logged\n12:00:00 step 8\n",
        f"{TRACEBACK}ZeroDivisionError: logged\nwrote a.h5 (3 kB)\n",
    ],
)
def test_no_error_ends_the_log(log: str) -> None:
    assert error_of(log) is None


def test_the_latest_failure_is_first(tmp_path: Path) -> None:
    for name, age, text in (
        ("reference", 20, "vrpo: error: old"),
        ("train/a/seed0/step8", 10, "x" * TAIL + "\nvrpo: error: new\n"),
        ("train/b/seed0/step8", 0, "12:00:00 step 4"),
    ):
        log = tmp_path / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(text.encode() + b"\xff")
        os.utime(log, (1000 - age, 1000 - age))
    found = failures(tmp_path, now=1000)
    assert [failure.log.stem for failure in found] == ["step8", "reference"]
    assert [failure.age for failure in found] == [10, 20]
    assert found[1].error.startswith("vrpo: error: old")
