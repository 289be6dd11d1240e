"""Files of any size that take no disk: all rows are zero, and read like any others."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vrpo.data.checksums import remember
from vrpo.data.hdf5 import Shapes, create_file, seal_file
from vrpo.data.layout import CHECKSUMS, read_layout

CHUNK = 1 << 20  # bytes


def write_sparse(path: Path, shapes: Shapes, attributes: Mapping[str, Any]) -> Path:
    """Write arrays of zeros whose rows are holes of the file, sealed and known as whole.

    Checking the file would read them all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    create_file(path, shapes, attributes)
    layout = read_layout(path)
    row_bytes = sum(entry.row_bytes for name, entry in layout.items() if name != CHECKSUMS)
    checksum = 0
    for start in range(0, row_bytes, CHUNK):
        checksum = zlib.crc32(bytes(min(CHUNK, row_bytes - start)), checksum)
    checksums = np.full(layout[CHECKSUMS].shape, checksum, dtype=np.uint32)
    file = os.open(path, os.O_RDWR)
    try:
        os.pwrite(file, checksums.tobytes(), layout[CHECKSUMS].offset)
    finally:
        os.close(file)
    seal_file(path, attributes, checksums)
    remember(path)
    return path
