"""Schedules of weights against their formulas, in the options and in a training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from vrpo.alignment.repa import schedule_factor
from vrpo.config import RunConfig
from vrpo.config.alignments.repa import ScheduleOptions
from vrpo.config.messages import validate

from tests.fixtures.training import Toy


def factors(steps: list[int], **options: Any) -> list[float]:
    schedule = ScheduleOptions(**options)
    return [schedule_factor(schedule, torch.tensor(step)).item() for step in steps]


def test_factors() -> None:
    assert factors([0, 7, 10**6]) == [1, 1, 1]
    assert factors([0, 4, 5, 6], kind="stop", end=5, final=0.25) == [1, 1, 0.25, 0.25]
    assert factors(
        [0, 10, 15, 20, 30], kind="linear", start=10, end=20, final=0.5
    ) == pytest.approx([1, 1, 0.75, 0.5, 0.5])
    cosine = [0.2 + 0.8 * (1 + math.cos(math.pi * u)) / 2 for u in (0, 0.25, 0.5, 1, 1)]
    assert factors([0, 25, 50, 100, 200], kind="cosine", end=100, final=0.2) == pytest.approx(
        cosine, abs=1e-6
    )


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "linear"},
        {"kind": "stop"},
        {"kind": "constant", "end": 5},
        {"kind": "cosine", "start": 5, "end": 5},
    ],
)
def test_incomplete_schedules_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ScheduleOptions(**options)


def losses(toy: Toy, folder: Path, **alignment: Any) -> np.ndarray:
    content = toy.config("repa").model_dump(mode="json")
    content["alignment"] |= alignment
    config = validate(RunConfig, content, "toy")
    toy.train_to(config, folder, 6, log_every=1)
    return np.genfromtxt(folder / "train.csv", delimiter=",", names=True)


def test_repa_stops_at_its_step(tmp_path: Path) -> None:
    rows = losses(Toy(tmp_path), tmp_path / "run", weight_schedule={"kind": "stop", "end": 3})
    np.testing.assert_allclose(rows["loss"][3:], rows["denoising"][3:])
    np.testing.assert_allclose(
        rows["loss"][:3], (rows["denoising"] + 0.5 * rows["alignment"])[:3], rtol=1e-5
    )
