"""The manifest of the training images: how many, of which classes, and which were left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vrpo.data.kinds import IMAGES
from vrpo.data.manifest import without
from vrpo.data.shards import ShardedArrays, open_arrays
from vrpo.data.sources import open_source
from vrpo.errors import UserError
from vrpo.files import write_text
from vrpo.prepare.unreadable import UnreadableList

if TYPE_CHECKING:
    from vrpo.config.data import DataOptions


def write_manifest(options: DataOptions, images: Path | str, output: Path | str) -> None:
    """Check that the images, in all shards, are those of the source now; write their manifest.

    JSON with the keys `source`, `fingerprint`, `resolution`, `count`, `class_names` and
    `images_per_class` by label, and `unreadable` (path and reason of images left out).

    Raises:
        UserError: a shard is missing or damaged, or the source has changed since.
    """
    arrays = open_arrays(images, IMAGES)
    source = open_source(options)
    files = arrays.files if isinstance(arrays, ShardedArrays) else [arrays]
    description = source.describe()
    unreadable = []
    if arrays.attributes.get("skipped"):
        for file in files:
            unreadable += UnreadableList(file.path, description["fingerprint"]).images
    now = without(description, [image.index for image in unreadable])
    written = arrays.attributes["fingerprint"], arrays.shape("labels")[0]
    if (now["fingerprint"], now["count"]) != written:
        raise UserError(
            f"{images}: the data set has changed since it was written; "
            "delete it (and images.listing.npz, where it has shards) and rebuild it"
        )
    counts = np.bincount(arrays.rows("labels", slice(None)), minlength=len(source.classes))
    manifest = {
        "source": now["name"],
        "fingerprint": now["fingerprint"],
        "resolution": arrays.attributes["resolution"],
        "count": int(counts.sum()),
        "class_names": source.classes,
        "images_per_class": counts.tolist(),
        "unreadable": [{"path": image.where, "reason": image.reason} for image in unreadable],
    }
    write_text(output, json.dumps(manifest, indent=1) + "\n")
