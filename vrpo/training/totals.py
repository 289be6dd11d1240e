"""Metrics of a training, summed on each rank's device until a row is logged."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vrpo.alignment.base import RESERVED
from vrpo.errors import UserError
from vrpo.runtime.distributed import Ranks

ADDED = ("step", "grad_norm", "skipped")  # columns of a row beside the metrics


class Totals:
    """This rank's sums since the last row; a row has the means over ranks."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.sums: dict[str, Tensor] = {}
        self.names: tuple[str, ...] = ()

    def add_metrics(self, metrics: dict[str, Tensor], parts: int) -> None:
        """Add the metrics of one of `parts` micro-batches of a step.

        Raises:
            UserError: they are not those of earlier steps: rows would not be means over steps.
        """
        self.names = self.names or tuple(metrics)
        if tuple(metrics) != self.names:
            before, now = (
                ", ".join(name for name in names if name not in RESERVED) or "none"
                for names in (self.names, metrics)
            )
            raise UserError(
                f"the alignment: it returned the metrics {before}, and then {now}; return the same "
                "ones, in the same order, in every step"
            )
        for name, value in metrics.items():
            self.add(name, value.detach() / parts)

    def add(self, name: str, value: Tensor) -> None:
        """Add one step's value."""
        self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def take(self) -> dict[str, float]:
        """The sums, each the mean over ranks; they begin anew. All ranks call it."""
        values = self.ranks.all_reduce(self._stacked()) / self.ranks.world
        taken = dict(zip(self.sums, values.tolist(), strict=True))
        self.sums = {}
        return taken

    def state_dict(self) -> dict[str, Tensor]:
        """The sums of every rank, [ranks] each. All ranks call it."""
        if not self.sums:
            return {}
        gathered = self.ranks.all_gather(self._stacked()).unbind(dim=1)
        return {
            name: values.to(self.sums[name].dtype)
            for name, values in zip(self.sums, gathered, strict=True)
        }

    def load_state_dict(self, state: dict[str, Tensor], columns: Iterable[str]) -> None:
        """Take this rank's part of `state_dict()`; of another number of ranks, the mean.

        `columns` are those of the rows logged so far, if there are any.
        """
        self.names = tuple(name for name in [*columns] or state if name not in ADDED)
        self.sums = {
            name: self._own(values.reshape(-1)).to(self.ranks.device)
            for name, values in state.items()
        }

    def _stacked(self) -> Tensor:
        return torch.stack([value.double() for value in self.sums.values()])

    def _own(self, values: Tensor) -> Tensor:
        if len(values) == self.ranks.world:
            return values[self.ranks.rank]
        return values.double().mean().to(values.dtype)
