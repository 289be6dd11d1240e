"""Sources of labelled, square uint8 RGB images."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vrpo.data.sources.archive import ZipSource
from vrpo.data.sources.base import EncodedSource, ImageSource, UnreadableImageError, center_crop
from vrpo.data.sources.classes import read_class_index, surplus_classes
from vrpo.data.sources.digits import DigitsSource
from vrpo.data.sources.folder import FolderSource, ilsvrc_source
from vrpo.data.sources.listing import stamp
from vrpo.data.sources.parquet import ParquetSource
from vrpo.data.sources.saved import load_listing, save_listing
from vrpo.data.sources.webdataset import WebDatasetSource
from vrpo.errors import UserError

if TYPE_CHECKING:
    from vrpo.config.data import DataOptions

__all__ = [
    "DigitsSource", "EncodedSource", "FolderSource", "ImageSource", "ParquetSource",
    "UnreadableImageError", "WebDatasetSource", "ZipSource",
    "center_crop", "ilsvrc_source", "load_listing", "open_source", "save_listing",
]  # fmt: skip

log = logging.getLogger(__name__)

SOURCES = {
    "folder": FolderSource,
    "ilsvrc": ilsvrc_source,
    "zip": ZipSource,
    "webdataset": WebDatasetSource,
    "parquet": ParquetSource,
}


def open_source(options: DataOptions) -> ImageSource:
    """The source that `options.source` names, checked against `options.num_classes`.

    Raises:
        UserError: its root is missing or damaged, or it has another number of classes.
    """
    if options.source == "digits":
        source: ImageSource = DigitsSource(options.resolution)
    else:
        index = read_class_index(options.class_index) if options.class_index else None
        source = SOURCES[options.source](options.root, options.resolution, index)
        if options.class_index:
            source.stamps[options.class_index] = stamp(options.class_index)
    classes = len(source.classes)
    if classes != options.num_classes:
        where = "" if options.source == "digits" else f" in {options.root}"
        if classes > options.num_classes:
            where += f" ({surplus_classes(source.classes, source.labels, options.num_classes)})"
        raise UserError(
            f"data.num_classes: {options.num_classes}, "
            f"but source `{options.source}` has {classes} classes{where}; "
            f"set it to {classes} or fix the data set"
        )
    if options.source != "digits":
        log.info("data.root: %d images of %d classes in %s", len(source), classes, options.root)
    return source
