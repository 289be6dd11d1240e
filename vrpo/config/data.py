"""Options of the training images."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vrpo.config.base import Options, Place, option


class DataOptions(Options):
    """Where images come from."""

    source: Literal["digits", "folder", "ilsvrc", "zip", "webdataset", "parquet"] = option(
        "digits", "scikit-learn's handwritten `digits`, or the kind of `root` (docs/data.md)"
    )
    root: Place | None = option(
        None, "folder or file of the training images, e.g. `/data/imagenet/train`"
    )
    class_index: Place | None = option(
        None,
        "file with the order and names of the classes, e.g. `imagenet_class_index.json`; "
        "null: the order of the source (docs/data.md)",
    )
    resolution: int = option(32, "side of an image after ADM's centre crop", "pixels", ge=8)
    num_classes: int = option(10, "number of classes the source must have", ge=1)
    skip_unreadable: bool = option(
        False, "leave out images that cannot be read; false: list them and stop with an error"
    )
    workers: int = option(0, "processes that decode images; 0: the main process does", ge=0)
    shards: int = option(
        1,
        "files of the images, of the latents and of the features; each is a job of its own",
        ge=1,
        le=10_000,
    )

    @model_validator(mode="after")
    def _root_for_files(self) -> DataOptions:
        if self.source != "digits" and not self.root:
            raise ValueError(
                "`root` must name the folder or file of training images "
                f"when `source` is `{self.source}`"
            )
        return self
