"""NumPy archives with reproducible bytes, and samples as a .npz for ADM's own evaluator."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from vrpo.files import atomic_output, require_free_space
from vrpo.metrics.inputs import open_images

EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's zero; a real time would make equal content different bytes


def write_npz(path: Path | str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` as an uncompressed .npz, atomically, with no times in it."""
    with (
        atomic_output(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name in sorted(arrays):
            with _entry(archive, name) as stream:
                array = np.asarray(arrays[name], order="C")
                np.lib.format.write_array(stream, array, allow_pickle=False)


def export_npz(samples: Path | str, output: Path | str, batch_size: int = 256) -> int:
    """Write the images at `samples` as `arr_0`, uint8 [N, H, W, 3], of a .npz; returns N.

    Args:
        samples: .h5, .npz or a folder of PNGs.
        output: .npz.
        batch_size: images at once.

    Raises:
        UserError: the samples cannot be read, or the disk is too small.
    """
    images = open_images(samples)
    shape = (images.count, images.resolution, images.resolution, 3)
    output = Path(output)
    require_free_space(output.parent, int(np.prod(shape)), output.name)
    with (
        atomic_output(output) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
        _entry(archive, "arr_0") as stream,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for batch in images.batches(batch_size):
            stream.write(np.ascontiguousarray(batch).data)
    return images.count


@contextlib.contextmanager
def _entry(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    info = zipfile.ZipInfo(f"{name}.npy", date_time=EPOCH)
    with archive.open(info, "w", force_zip64=True) as stream:
        yield stream
