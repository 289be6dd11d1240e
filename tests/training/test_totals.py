"""Metrics between two rows of train.csv."""

from types import SimpleNamespace

import pytest
import torch

from vrpo.errors import UserError
from vrpo.training.totals import Totals


@pytest.fixture
def totals() -> Totals:
    alone = SimpleNamespace(
        world=1, rank=0, device=torch.device("cpu"), all_reduce=lambda values: values
    )
    return Totals(alone)


def metrics(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_micro_batches_count_by_their_part_of_the_step(totals: Totals) -> None:
    for value in (1.0, 3.0):
        totals.add_metrics(metrics(loss=value), parts=2)
    totals.add("skipped", torch.tensor(1.0))
    assert totals.take() == {"loss": 2.0, "skipped": 1.0}
    assert totals.sums == {}


@pytest.mark.parametrize(
    "later", [{"loss": 1.0}, {"loss": 1.0, "other": 2.0}, {"share": 2.0, "loss": 1.0}, {}]
)
def test_metrics_that_change_between_steps_are_refused(
    totals: Totals, later: dict[str, float]
) -> None:
    """Their columns would shift, and their means be of fewer steps than the row says."""
    totals.add_metrics(metrics(loss=1.0, share=2.0), parts=1)
    totals.take()
    with pytest.raises(UserError, match=r"returned the metrics share, and then .*; return"):
        totals.add_metrics(metrics(**later), parts=1)


def test_a_metric_keeps_no_graph(totals: Totals) -> None:
    totals.add_metrics({"loss": torch.ones((), requires_grad=True) * 2}, parts=1)
    assert not totals.sums["loss"].requires_grad


@pytest.mark.parametrize(
    ("columns", "sums"),
    [(["step", "loss", "share", "grad_norm", "skipped"], []), ([], ["loss", "share", "skipped"])],
    ids=["at a row", "before the first"],
)
def test_metrics_that_change_after_a_resume_are_refused(
    columns: list[str], sums: list[str], totals: Totals
) -> None:
    """The loss's file was edited in between."""
    totals.load_state_dict({name: torch.zeros(1) for name in sums}, columns)
    totals.add_metrics(metrics(loss=1.0, share=2.0), parts=1)
    with pytest.raises(UserError, match=r"returned the metrics share, and then none; return"):
        totals.add_metrics(metrics(loss=1.0), parts=1)
