"""A training on two nodes; a stand-in for `srun` starts both on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.training import Toy, assert_same_results

SRUN = f"""#!{sys.executable}
import os, subprocess, sys
words = sys.argv[1:]
command = words[next(n for n, word in enumerate(words) if not word.startswith("--")):]
nodes = range(int(words[0].removeprefix("--nodes=")))
tasks = [
    subprocess.Popen(command, env={{**os.environ, "SLURM_PROCID": str(node)}}) for node in nodes
]
sys.exit(max(task.wait() for task in tasks))
"""

pytestmark = pytest.mark.usefixtures("one_thread")


def test_two_nodes_resume_and_give_the_bytes_of_two_ranks_of_one(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    assert toy.drive(7, "ranks", 2, tmp_path / "nodes") == [0] * 2
    assert toy.drive(15, "ranks", 2, tmp_path / "whole") == [0] * 2
    result = subprocess.run(
        toy.command(toy.config("vrpo"), tmp_path / "nodes", 15, nodes=2),
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "3",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("steps 7 to 15 on cpu; batch 8 global = 2 ranks") == 1
    assert_same_results(tmp_path / "nodes", tmp_path / "whole", 15)
