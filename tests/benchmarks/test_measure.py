"""The clock of steps, by hand."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import StepClock


def test_parts_of_steps_are_medians_of_the_clock(
    cpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([0.0, 1.0, 3.0, 4.0, 10.0, 12.0, 13.0, 14.0, 20.0, 23.0, 24.0, 25.0])
    monkeypatch.setattr("benchmarks.measure.time.perf_counter", lambda: next(moments))
    clock = StepClock(cpu)
    for _ in range(3):
        clock.begin()
        for part in ("data", "forward", "data"):
            clock.mark(part)
    assert clock.medians() == {"data": 3.0, "forward": 1.0}


def test_the_clock_adds_up_parts_of_the_same_name(cpu: torch.device) -> None:
    clock = StepClock(cpu)
    clock.begin()
    for part in ("forward", "backward", "forward"):
        clock.mark(part)
    assert clock.medians().keys() == {"forward", "backward"}
