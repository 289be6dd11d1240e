"""Metrics between two rows of train.csv."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vrpo.errors import UserError
from vrpo.training.history import History
from vrpo.training.totals import Totals


@pytest.fixture
def totals() -> Totals:
    alone = SimpleNamespace(world=1, device=torch.device("cpu"), all_reduce=lambda values: values)
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
    with pytest.raises(UserError, match=r"returned the metrics loss, share, and then .*; return"):
        totals.add_metrics(metrics(**later), parts=1)


def test_a_metric_keeps_no_graph(totals: Totals) -> None:
    totals.add_metrics({"loss": torch.ones((), requires_grad=True) * 2}, parts=1)
    assert not totals.sums["loss"].requires_grad


def test_columns_that_change_after_a_resume_are_refused(tmp_path: Path) -> None:
    """The loss's file was edited in between."""
    tables = {"train": [{"step": "1", "loss": "0.5"}], "diagnostics": []}
    history = History(tmp_path, batch_size=8, step=1, tables=tables)
    with pytest.raises(UserError, match=r"train.csv: its columns are step, loss, and the loss now"):
        history.append(2, {"loss": 0.4, "share": 0.1}, {})
    assert (tmp_path / "train.csv").read_text() == "step,loss\n1,0.5\n"
