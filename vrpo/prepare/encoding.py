"""All images through a network into a file; reading and writing overlap with the network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vrpo.data.arrays import ArrayWriter
from vrpo.data.shards import StoredArrays
from vrpo.errors import UserError
from vrpo.prepare.pixels import read_pinned, to_device

Encode = Callable[[Tensor], dict[str, Tensor]]


def encode_images(
    images: StoredArrays,
    part: slice,
    writer: ArrayWriter,
    batch_size: int,
    encode: Encode,
    device: torch.device | str,
    title: str,
) -> None:
    """Write `encode(batch)` of all images of `part` that are still to be written.

    Reading and writing have a thread each. On a GPU, batch k + 1 is queued before the results of
    batch k are fetched, so that it never waits for the CPU.

    Args:
        images: with `images` uint8 `[N, H, W, 3]` and `labels` int64 `[N]`.
        part: rows of `images` that `writer` holds.
        writer: open; its arrays are those that `encode` gives, and `labels` where it has them.
        batch_size: images at once; boundaries are multiples of it in every try.
        encode: images uint8 `[B, 3, H, W]` on `device` to what is stored of them, by name.
        device: where the network is.
        title: of the progress bar.

    Raises:
        UserError: the network gives values that are not finite, or that overflow the stored type.
    """
    labelled = "labels" in writer.shapes
    slices = list(writer.batches(batch_size))
    progress = tqdm(
        total=writer.count, initial=writer.done, desc=title, unit="image", mininterval=1.0
    )
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as behind, progress:
        tasks = [
            functools.partial(read_pinned, images, _shifted(rows, part.start), device)
            for rows in slices
        ]

        def write(rows: slice, stored: dict[str, Tensor], copied: torch.cuda.Event | None) -> None:
            if copied:
                copied.synchronize()
            arrays = {name: values.numpy() for name, values in stored.items()}
            for name, values in arrays.items():
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    first, last = part.start + rows.start, part.start + rows.stop - 1
                    raise UserError(
                        f"{writer.path}: `{name}` of images {first} to {last} is not finite; "
                        "give other weights, or a wider `storage`"
                    )
            if labelled:
                arrays["labels"] = images.rows("labels", _shifted(rows, part.start))
            writer.write(rows.start, arrays)
            progress.update(rows.stop - rows.start)

        writing: list[Future[None]] = []
        for rows, pixels in zip(slices, _ahead(reader, tasks), strict=True):
            made = encode(to_device(pixels, device))
            stored = {name: values.to("cpu", non_blocking=True) for name, values in made.items()}
            copied = torch.cuda.Event() if torch.device(device).type == "cuda" else None
            if copied:
                copied.record()
            writing.append(behind.submit(write, rows, stored, copied))
            if len(writing) > 2:
                writing.pop(0).result()
        for last in writing:
            last.result()


def _ahead(pool: ThreadPoolExecutor, tasks: list[Callable[[], Tensor]]) -> Iterator[Tensor]:
    """Results of `tasks` in order, two of them begun before they are asked for."""
    waiting = [pool.submit(task) for task in tasks[:2]]
    for position in range(len(tasks)):
        yield waiting.pop(0).result()
        if position + 2 < len(tasks):
            waiting.append(pool.submit(tasks[position + 2]))


def _shifted(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)
