"""When a training in a job with a time limit saves and leaves."""

import signal
from collections.abc import Iterator

import pytest
import torch

from vrpo.errors import InterruptionError
from vrpo.runtime.distributed import Ranks
from vrpo.training import interrupt
from vrpo.training.interrupt import Interrupt, budget_minutes


@pytest.mark.parametrize(("limit", "budget"), [(720, 710), (60, 50), (50, 40), (20, 16), (1, 0.8)])
def test_time_is_left_for_what_precedes_and_follows(limit: float, budget: float) -> None:
    assert budget_minutes(limit) == pytest.approx(budget)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time in minutes, to be set; signal handlers are put back afterwards."""
    now, handler = [0.0], signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: 60 * now[0])
    yield now
    signal.signal(signal.SIGTERM, handler)


def test_a_training_leaves_before_the_limit(clock: list[float]) -> None:
    watch = Interrupt(Ranks(0, 1, torch.device("cpu")), save_minutes=1000, max_minutes=90, since=0)
    clock[0] = 79.9
    assert not watch.save_now(1)
    watch.stop_if_asked(1)
    clock[0] = 80.1
    assert watch.save_now(2)
    with pytest.raises(InterruptionError, match="wall-time budget") as caught:
        watch.stop_if_asked(2)
    assert caught.value.out_of_time


def test_without_a_limit_it_stays(clock: list[float]) -> None:
    watch = Interrupt(
        Ranks(0, 1, torch.device("cpu")), save_minutes=10**9, max_minutes=None, since=0
    )
    clock[0] = 10**6
    assert not watch.save_now(1)
