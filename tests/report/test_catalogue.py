"""The catalogue of figures and tables."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vrpo.report.catalogue import BENCHMARK, CATALOGUE, COLLECTED, Entry

from tests.fixtures import ROOT
from tests.fixtures.report import (
    FIGURES,
    MINIATURE,
    TABLES,
)


def test_entries_of_the_catalogue_are_whole() -> None:
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names)
    for entry in [*CATALOGUE, *BENCHMARK]:
        module, _, name = entry.function.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        assert entry.title and set(entry.needs) <= set(COLLECTED)
        assert not entry.caption or entry.caption.endswith(".")


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_an_entry_reads_what_it_needs_and_nothing_else(
    entry: Entry, three_seeds: Path, tmp_path: Path
) -> None:
    for file in entry.needs:
        shutil.copy(three_seeds / file, tmp_path)
    assert entry.make(MINIATURE, tmp_path)


def test_the_makefile_asks_the_catalogue() -> None:
    words = [sys.executable, "-m", "vrpo.report.catalogue"]
    printed = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert printed.split() == [*FIGURES, *TABLES]
    assert (
        "FIGURE ?= $$(python -m vrpo.report.catalogue) report\n" in (ROOT / "Makefile").read_text()
    )
