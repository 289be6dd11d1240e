"""Results that do not depend on the number of ranks or the split of the batch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from vrpo.models.checkpoints import read_network

from tests.fixtures.training import Toy, losses, milestone_file

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_training_on_two_ranks_is_logged_once(toy: Toy, tmp_path: Path) -> None:
    config = toy.config("repa")
    toy.train_to(config, tmp_path / "one", 20)
    result = toy.run(config, tmp_path / "two", 20, ranks=2)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("steps 0 to 20 on cpu") == 1, "said once, by the first rank"
    assert "warn" not in result.stderr.lower() and "OMP_NUM_THREADS" not in result.stderr
    assert_equal_up_to_rounding(tmp_path / "two", tmp_path / "one")


def test_two_ranks_give_the_losses_of_one(toy: Toy, tmp_path: Path) -> None:
    """Gradients, metrics and VRPO's statistics over the global batch: 1e-5 in fp32."""
    names = ("vrpo-sit", "vrpo-dit", "everything-dit")
    assert toy.drive(20, "ranks", 2, *(tmp_path / "two" / name for name in names)) == [0] * 6
    for name in names:
        toy.train_to(toy.config(*name.split("-")), tmp_path / "one" / name, 20)
        assert_equal_up_to_rounding(tmp_path / "two" / name, tmp_path / "one" / name)


def assert_equal_up_to_rounding(first: Path, second: Path) -> None:
    np.testing.assert_allclose(losses(first), losses(second), rtol=1e-5, atol=1e-5)
    one, two = (read_network(milestone_file(run, 20))[0] for run in (first, second))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-4, atol=1e-5)


def test_four_ranks_give_the_losses_of_one(toy: Toy, tmp_path: Path) -> None:
    config = toy.config("vrpo", batch_size=16)
    toy.train_to(config, tmp_path / "one", 20)
    result = subprocess.run(
        toy.command(config, tmp_path / "four", 20, ranks=4),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "batch 16 global = 4 ranks x 1 accumulation x 4" in result.stderr
    np.testing.assert_allclose(
        losses(tmp_path / "four"), losses(tmp_path / "one"), rtol=1e-5, atol=1e-5
    )


def test_ranks_that_stop_between_two_rows_give_the_rows_of_undisturbed_ones(
    toy: Toy, tmp_path: Path
) -> None:
    """Rows come every five steps, the stop after seven.

    On two ranks the bytes are equal; on another number of ranks the rows are, up to rounding.
    """
    config, folder = (
        toy.config("vrpo"),
        {name: tmp_path / name for name in ("whole", "parts", "two, one", "one, two")},
    )
    toy.train_to(config, folder["one, two"], 7)
    assert toy.drive(7, "ranks", 2, folder["parts"], folder["two, one"]) == [0] * 4
    assert (
        toy.drive(15, "ranks", 2, folder["whole"], folder["parts"], folder["one, two"]) == [0] * 6
    )
    toy.train_to(config, folder["two, one"], 15)
    for file in ("train.csv", "diagnostics.csv", milestone_file(folder["whole"], 15).name):
        assert (folder["parts"] / file).read_bytes() == (folder["whole"] / file).read_bytes()
    for name in ("two, one", "one, two"):
        np.testing.assert_allclose(
            losses(folder[name]), losses(folder["whole"]), rtol=1e-5, atol=1e-5
        )


def test_the_saved_state_is_equal_on_all_ranks(toy: Toy, tmp_path: Path) -> None:
    """The first rank saves for all.

    Sums of metrics, statistics of rewards, diagnostics and agreement must not be its own alone.
    """
    assert toy.drive(7, "states", 2, tmp_path / "run") == [0, 0]
    first, second = (
        torch.load(tmp_path / f"run/rank{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert first["totals"] and any(name.endswith("statistics.sums") for name in first["objective"])
    assert second["data"] == first["data"]
    for part in first.keys() - {"tables", "data"}:  # rows, which the first rank alone writes; text
        torch.testing.assert_close(second[part], first[part], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("alignment", "process"),
    [
        ("repa", "sit"),
        ("vrpo", "sit"),
        ("vrpo", "dit"),
        ("replaced", "sit"),
        ("everything", "sit"),
        ("everything", "dit"),
    ],
)
def test_accumulation_changes_memory_not_results(
    toy: Toy, tmp_path: Path, alignment: str, process: str
) -> None:
    toy.train_to(toy.config(alignment, process), tmp_path / "whole", 20)
    toy.train_to(toy.config(alignment, process, accumulation=2), tmp_path / "parts", 20)
    np.testing.assert_allclose(
        losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-5, atol=1e-5
    )
