"""All images of the source, cropped and resized, in HDF5: what every later stage reads."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from vrpo.data.arrays import ArrayWriter
from vrpo.data.manifest import without
from vrpo.data.shards import shard_attributes, shard_of, shard_rows
from vrpo.data.sources import (
    EncodedSource,
    ImageSource,
    UnreadableImageError,
    load_listing,
    open_source,
    save_listing,
)
from vrpo.errors import UserError
from vrpo.prepare.unreadable import Unreadable, UnreadableList

if TYPE_CHECKING:
    from vrpo.config.data import DataOptions

log = logging.getLogger(__name__)

BATCH = 64  # images handed to a worker at once
MOST_SKIPPED = 5_000  # images of one file, listed in its attributes; more are a broken data set

# images [n, H, W, 3], zeros where one cannot be read, and those that cannot
Decoded = tuple[np.ndarray, list[Unreadable]]


def list_images(options: DataOptions, output: Path | str) -> None:
    """Write the listing of the source (.npz), for the jobs that write its shards.

    Raises:
        UserError: the source is missing, has another number of classes or no files.
    """
    source = open_source(options)
    if not isinstance(source, EncodedSource):
        raise UserError(
            f"data.source: `{options.source}` has no files to be listed; write its images at once"
        )
    save_listing(source, options, output)


def write_images(
    options: DataOptions, output: Path | str, listing: Path | str | None = None
) -> None:
    """Write `images` uint8 `[N, H, W, 3]` and `labels` int64 `[N]`; a killed run resumes.

    `output` names the part of the images (`shard-...`, or all). Images that cannot be read are
    listed in a file beside it. With `options.skip_unreadable` the rest is written, as another set
    of images.

    Args:
        options: which source.
        output: HDF5 file to write.
        listing: of `list_images`, so that the source is not listed again; not used where outdated.

    Raises:
        UserError: the source is missing, has another number of classes or unreadable images, the
            disk is too small, or a worker was killed.
    """
    output = Path(output)
    source = _listed(options, listing, output) or open_source(options)
    part = shard_rows(len(source), output)
    indices = np.arange(part.start, part.stop)
    unreadable = UnreadableList(output, source.describe()["fingerprint"])
    if unreadable.mended(source):
        unreadable.clear()
        ArrayWriter.discard(output)
    if not unreadable.complete:
        with _writer(source, output, indices, []) as writer:
            _decode_all(source, writer, indices, options.workers, unreadable)
            if not unreadable.images:
                writer.finish()
                unreadable.clear()
                return
        unreadable.save(complete=True)
    _refuse_or_skip(options, unreadable, len(indices))
    skipped = [image.index for image in unreadable.images]
    kept = np.setdiff1d(indices, skipped)
    with _writer(source, output, kept, skipped) as writer:
        _decode_all(source, writer, kept, options.workers, unreadable)
        if len(unreadable.images) > len(skipped):
            raise UserError(
                f"{unreadable.path}: more images became unreadable while they were read; "
                "see that nothing changes the data set and start again"
            )
        writer.finish()


def _listed(options: DataOptions, listing: Path | str | None, output: Path) -> ImageSource | None:
    """The source as it was listed; None where it was not, or this part of it has changed since."""
    source = load_listing(options, listing) if listing else None
    if source is not None and not source.is_current(shard_rows(len(source), output)):
        log.info("%s: the data have changed since they were listed; they are listed again", listing)
        return None
    return source


def _writer(
    source: ImageSource, output: Path, indices: np.ndarray, skipped: list[int]
) -> ArrayWriter:
    side = source.resolution
    shapes = {
        "images": ((len(indices), side, side, 3), np.uint8),
        "labels": ((len(indices),), np.int64),
    }
    description = {**source.describe(), "resolution": side}
    if shard_of(output)[1] == 1:
        return ArrayWriter(output, shapes, without(description, skipped))
    return ArrayWriter(output, shapes, shard_attributes(output, description, {"skipped": skipped}))


def _refuse_or_skip(options: DataOptions, unreadable: UnreadableList, count: int) -> None:
    found = unreadable.images
    said = (
        f"{unreadable.path}: lists {len(found)} of {count} images that cannot be read, "
        f"first {found[0].where} ({found[0].reason})"
    )
    if not options.skip_unreadable:
        raise UserError(
            f"{said}; restore them, or set `data.skip_unreadable: true` to leave them out"
        )
    if len(found) == count or len(found) > MOST_SKIPPED:
        raise UserError(
            f"{said}; so many are not left out ({MOST_SKIPPED} at most, and not all): "
            "fix the data set"
        )


def _decode_all(
    source: ImageSource,
    writer: ArrayWriter,
    indices: np.ndarray,
    workers: int,
    unreadable: UnreadableList,
) -> None:
    progress = tqdm(
        total=writer.count, initial=writer.done, desc="images", unit="image", mininterval=1.0
    )
    with progress:
        slices = list(writer.batches(BATCH))
        decoded = _decode(source, [indices[rows] for rows in slices], workers)
        for rows, (images, failed) in zip(slices, decoded, strict=True):
            unreadable.add(failed)  # before the rows: so the list covers every row written
            writer.write(rows.start, {"images": images, "labels": source.labels[indices[rows]]})
            progress.update(len(images))


def _decode(source: ImageSource, batches: Sequence[np.ndarray], workers: int) -> Iterator[Decoded]:
    if workers == 0:
        yield from (decode_batch(source, batch) for batch in batches)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_set_source, initargs=(source,)
    ) as pool:
        ahead = 4 * workers
        waiting = [pool.submit(_decode_in_worker, batch) for batch in batches[:ahead]]
        for batch in itertools.chain(batches[ahead:], [None] * len(waiting)):
            try:
                yield waiting.pop(0).result()
            except BrokenProcessPool as error:
                raise UserError(
                    "data.workers: a process that decodes images was killed, perhaps for want of "
                    "memory; give the job more memory or set fewer workers"
                ) from error
            if batch is not None:
                waiting.append(pool.submit(_decode_in_worker, batch))


def decode_batch(source: ImageSource, indices: np.ndarray) -> Decoded:
    """Images `indices` of the source, uint8 `[n, H, W, 3]`, with those that cannot be read."""
    images = np.zeros((len(indices), source.resolution, source.resolution, 3), dtype=np.uint8)
    failed = []
    for row, index in enumerate(indices.tolist()):
        try:
            images[row] = source.read(index)
        except UnreadableImageError as error:
            failed.append(Unreadable(index, error.where, error.reason))
    return images, failed


_source: list[ImageSource] = []


def _set_source(source: ImageSource) -> None:
    _source[:] = [source]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End a worker whose stage was killed; it would wait for work forever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _decode_in_worker(indices: np.ndarray) -> Decoded:
    return decode_batch(_source[0], indices)
