"""Encoder tokens of a step's global batch, gathered from all ranks and micro-batches."""

from __future__ import annotations

import torch
from torch import Tensor

from vrpo.alignment.base import GlobalTargets
from vrpo.runtime.distributed import Ranks
from vrpo.training.feed import MicroBatch


def gather_targets(batches: list[MicroBatch], ranks: Ranks) -> list[GlobalTargets]:
    """For each micro-batch of this rank, the global batch's encoder tokens. All ranks call it.

    `plan_parts` cuts the step by rank, then by micro-batch; so does this, and the images have the
    order of the plan.
    """

    def gathered(parts: list[Tensor]) -> Tensor:
        return ranks.all_gather(torch.cat(parts)).flatten(0, 1)

    tokens = {
        name: gathered([batch.tokens[name] for batch in batches]) for name in batches[0].tokens
    }
    rows = gathered([batch.rows for batch in batches])
    places = torch.arange(len(rows), device=rows.device).view(ranks.world, len(batches), -1)
    return [GlobalTargets(tokens, rows, own) for own in places[ranks.rank]]
