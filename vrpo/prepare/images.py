"""All images of the source, cropped and resized, in one HDF5 file: what every later stage reads."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from vrpo.data.arrays import ArrayWriter
from vrpo.data.images import ImageSource, open_source

if TYPE_CHECKING:
    from vrpo.config.options import DataOptions

BATCH = 64  # images handed to a worker at once


def write_images(options: DataOptions, output: Path | str) -> None:
    """Write `images` uint8 `[N, H, W, 3]` and `labels` int64 `[N]`; a killed run goes on where it was.

    Raises:
        UserError: the source is missing, has another number of classes or an unreadable image, or the disk is too small.
    """
    source = open_source(options)
    count, side = len(source), options.resolution
    shapes = {"images": ((count, side, side, 3), np.uint8), "labels": ((count,), np.int64)}
    attributes = {**source.describe(), "resolution": side}
    with ArrayWriter(output, shapes, attributes) as writer, tqdm(total=count, initial=writer.done, desc="images", unit="image") as progress:
        slices = list(writer.batches(BATCH))
        for rows, images in zip(slices, _read(source, slices, options.workers), strict=True):
            writer.write(rows.start, {"images": images, "labels": source.labels[rows]})
            progress.update(len(images))
        writer.finish()


def _read(source: ImageSource, slices: list[slice], workers: int) -> Iterator[np.ndarray]:
    if workers == 0:
        for rows in slices:
            yield read_rows(source, rows)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_source, initargs=(source,)) as pool:
        ahead = 4 * workers
        waiting = [pool.submit(_read_in_worker, rows) for rows in slices[:ahead]]
        for rows in itertools.chain(slices[ahead:], [None] * len(waiting)):
            yield waiting.pop(0).result()
            if rows is not None:
                waiting.append(pool.submit(_read_in_worker, rows))


def read_rows(source: ImageSource, rows: slice) -> np.ndarray:
    """Images `rows` of the source, uint8 `[n, H, W, 3]`."""
    return np.stack([source.read(index) for index in range(rows.start, rows.stop)])


_source: list[ImageSource] = []


def _set_source(source: ImageSource) -> None:
    _source[:] = [source]


def _read_in_worker(rows: slice) -> np.ndarray:
    return read_rows(_source[0], rows)
