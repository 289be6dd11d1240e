"""Collected folders of one and of three seeds."""

from pathlib import Path

import pytest

from tests.fixtures.report import collected, metrics_frame


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collected(tmp_path_factory.mktemp("one") / "collected", metrics_frame())


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collected(tmp_path_factory.mktemp("three") / "collected", metrics_frame((0, 1, 2)))
