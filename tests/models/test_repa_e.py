"""REPA-E's checkpoints are imported with the normalisation of their latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vrpo.errors import UserError
from vrpo.models.checkpoints import read_milestone
from vrpo.models.official import import_checkpoint

from tests.fixtures.released import assert_equal, repa_state


def test_repa_es_batch_norm_is_the_normalisation_of_its_latents(tmp_path: Path) -> None:
    variance, mean = torch.tensor([0.25, 4.0, 1.0, 16.0]), torch.tensor([0.1, -2.0, 0.0, 3.0])
    statistics = {
        "bn.running_mean": mean,
        "bn.running_var": variance,
        "bn.num_batches_tracked": torch.tensor(400_000),
    }
    torch.save({"ema": repa_state() | statistics}, tmp_path / "0400000.pt")
    found = import_checkpoint(tmp_path / "0400000.pt", tmp_path / "m.safetensors", heads=4)
    assert found["normalisation"] == {"scale": [2.0, 0.5, 1.0, 0.25], "shift": mean.tolist()}
    plain = tmp_path / "plain.pt"
    torch.save({"ema": repa_state()}, plain)
    without = import_checkpoint(plain, tmp_path / "p.safetensors", heads=4)
    assert "normalisation" not in without and without["model"] == found["model"]
    first, second = (read_milestone(tmp_path / f"{name}.safetensors") for name in "mp")
    assert_equal(first[0], second[0])


@pytest.mark.parametrize("change", [{"bn.running_mean": None}, {"bn.running_var": torch.zeros(4)}])
def test_half_a_batch_norm_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    full = {"bn.running_mean": torch.zeros(4), "bn.running_var": torch.ones(4)} | change
    state = repa_state() | {name: value for name, value in full.items() if value is not None}
    torch.save({"ema": state}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="its batch norm `bn` of REPA-E has no mean or no positive"):
        import_checkpoint(tmp_path / "x.pt", tmp_path / "m.safetensors", heads=4)
