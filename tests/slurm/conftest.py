"""A real SLURM of two nodes; only `make test-slurm` starts it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.slurm import CLUSTER
from tests.fixtures.workflow import snakemake, whole

LATENTS = Path("results/tiny/latents/shard-00000-of-00001.h5")

if not os.environ.get("VRPO_TEST_SLURM"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cluster, from here to the end of the tests."""
    folder = tmp_path_factory.mktemp("cluster")
    up = subprocess.run([CLUSTER, "up", folder], stderr=subprocess.PIPE, text=True, check=False)
    if up.returncode == 77:
        pytest.skip(up.stderr.strip())
    assert up.returncode == 0, up.stderr
    yield
    subprocess.run(["scancel", "--user", str(os.getuid())], check=False)
    subprocess.run([CLUSTER, "down"], check=True)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of the tiny experiment, computed without a queue."""
    folder = tmp_path_factory.mktemp("local")
    result = snakemake(folder, "--cores", "all")
    assert result.returncode == 0, whole(result)[-4000:]
    return folder


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with latents, and what they are made from."""
    folder = tmp_path_factory.mktemp("latents")
    result = snakemake(folder, "--cores", "all", "--", str(LATENTS))
    assert result.returncode == 0, whole(result)[-4000:]
    return folder


@pytest.fixture
def prepared(latents: Path, tmp_path: Path) -> Path:
    """A copy of it, for a workflow that trains."""
    shutil.copytree(latents / "results", tmp_path / "results")
    return tmp_path
