"""The batches of all ranks, written by the first one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from tqdm import tqdm

from vrpo.data.arrays import ArrayWriter
from vrpo.data.hdf5 import Shapes
from vrpo.errors import UserError
from vrpo.runtime.distributed import Ranks
from vrpo.sampling.decoding import DecodedBatch


class Collector:
    """Brings the batches of all ranks to the first one, which writes them and shows images/s."""

    def __init__(
        self,
        ranks: Ranks,
        batch_size: int,
        image_shape: tuple[int, ...],
        writer: ArrayWriter | None,
    ) -> None:
        self.ranks, self.writer = ranks, writer
        self.batch_size, self.image_shape = batch_size, image_shape
        self.progress = tqdm(
            total=writer.count if writer else None,
            initial=writer.done if writer else 0,
            desc="samples",
            unit="image",
            mininterval=1.0,
            disable=writer is None,
        )

    def add(self, batch: DecodedBatch, milestone: Path | str) -> None:
        """Gather one batch of every rank, and write them.

        Raises:
            UserError: on every rank, when latents of one were not finite.
        """
        if any(self.ranks.any(not batch.wait())):
            raise UserError(
                f"{milestone}: not finite at images {batch.rows.start} to {batch.rows.stop - 1}; "
                "the training diverged, lower its learning rate"
            )
        padded = torch.zeros(self.batch_size, *self.image_shape, dtype=torch.uint8)
        images = self._gathered(getattr(batch, "images", None), padded)
        padded = torch.zeros(self.batch_size, dtype=torch.int64)
        labels = self._gathered(getattr(batch, "labels", None), padded)
        if self.writer is not None:
            count = batch.rows.stop - batch.rows.start
            rows = {"images": images[:count].numpy(), "labels": labels[:count].numpy()}
            self.writer.write(batch.rows.start, rows)
            self.progress.update(count)

    def finish(self) -> None:
        """Give the file its name, and wait for the first rank to have done so."""
        self.progress.close()
        if self.writer is not None:
            self.writer.finish()
        self.ranks.barrier()

    def _gathered(self, own: Tensor | None, padded: Tensor) -> Tensor:
        """On the first rank the rows of all ranks, in order."""
        if self.ranks.world == 1:
            return own
        if own is not None:
            padded[: len(own)] = own
        parts = None
        if self.ranks.is_main:
            parts = [torch.empty_like(padded) for _ in range(self.ranks.world)]
        distributed.gather(padded, parts, dst=0, group=self.ranks.control)
        return torch.cat(parts) if parts else padded


@contextlib.contextmanager
def writer_of_first_rank(
    ranks: Ranks, output: Path | str, shapes: Shapes, attributes: dict[str, Any]
) -> Iterator[ArrayWriter | None]:
    """The writer on the first rank, None on the others."""
    if not ranks.is_main:
        yield None
        return
    with ArrayWriter(output, shapes, attributes) as writer:
        yield writer


def rounds(
    ranks: Ranks, writer: ArrayWriter | None, count: int, batch_size: int
) -> Iterator[slice]:
    """Rows still to be made, a batch of each rank at a time; the first rank knows the start."""
    size, begin = batch_size * ranks.world, 0
    if writer:
        begin = next((rows.start for rows in writer.batches(size)), count)
    begin = int(ranks.all_reduce(torch.tensor(begin, device=ranks.device)))
    return (slice(start, min(start + size, count)) for start in range(begin, count, size))
