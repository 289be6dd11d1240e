"""Resolved options: networks and runs as stages get them, and what is collected of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, PositiveInt, ValidationError

from vrpo.config.alignments import AnyAlignment
from vrpo.config.base import Options, option, shown
from vrpo.config.messages import require_known
from vrpo.config.processes import ProcessOptions
from vrpo.config.runs import ModelSize
from vrpo.config.training import TrainingOptions

PAPER_SIZES = {  # DiT, table 1 (arXiv:2212.09748); SiT's are the same
    "S": ModelSize(depth=12, width=384, heads=6),
    "B": ModelSize(depth=12, width=768, heads=12),
    "L": ModelSize(depth=24, width=1024, heads=16),
    "XL": ModelSize(depth=28, width=1152, heads=16),
}


class ModelOptions(Options):
    """A transformer, resolved: everything its construction needs."""

    name: str = option(..., "as papers print it, e.g. `SiT-XL/2`")
    depth: int = option(..., "transformer blocks", ge=1)
    width: int = option(..., "channels of a token", ge=1)
    heads: int = option(..., "attention heads", ge=1)
    patch_size: int = option(..., "side of a patch of the latent", ge=1)
    num_classes: int = option(..., "classes; the null class is this number", ge=1)


class CustomModelOptions(ModelOptions):
    """A custom network, resolved."""

    backbone: str = option(..., "`module:Class`")
    arguments: dict[str, Any] = option(dict, "further keyword arguments of the class")


class RunConfig(Options):
    """A run resolved for one seed: exactly what its training depends on (its `config.yaml`)."""

    run: str = option(..., "the run's name")
    seed: int = option(..., "seed of weights, data order, noise and dropout")
    model: ModelOptions | CustomModelOptions = option(..., "network")
    process: ProcessOptions = option(..., "process")
    alignment: AnyAlignment = option(..., "alignment")
    training: TrainingOptions = option(..., "optimisation")


class RecordedNormalisation(BaseModel):
    """Normalisation of a milestone's latents, as `vrpo.models.normalisation.Normalisation`."""

    scale: float | list[float]
    shift: float | list[float]


class MilestoneDescription(BaseModel):
    """Fields that are read of a milestone's description; it may have more."""

    run: str
    seed: int
    step: int
    model: ModelOptions | CustomModelOptions
    process: ProcessOptions
    latent_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    out_channels: PositiveInt
    normalisation: RecordedNormalisation | None = None
    class_token: PositiveInt | None = None


def milestone_fault(description: Mapping[str, Any]) -> str | None:
    """The first thing wrong with a milestone's description, `field: what`; None: nothing."""
    try:
        MilestoneDescription.model_validate(description)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None


class CollectedRun(Options):
    """The results of one run that are collected."""

    seeds: list[int] = option(..., "training seeds")
    milestones: list[int] = option(..., "steps", "steps")
    samplers: dict[str, list[int]] = option(..., "samplers, each with its evaluated steps")


class CollectOptions(Options):
    """Results collected for figures and tables (`config/collect.yaml`), however they look."""

    grid_images: int = option(..., "images of each run in the grid of samples", "images")
    runs: dict[str, CollectedRun] = option(..., "the comparison, a row a run")
    epochs: bool = option(False, "whether to record the number of training images, for EP_FID@k")


def split_model(where: str, name: str, sizes: Mapping[str, ModelSize]) -> tuple[ModelSize, int]:
    """`XL/2` -> (size XL, patch 2).

    Raises:
        ValueError: the size is unknown or the patch is not a positive number.
    """
    match = re.fullmatch(r"(.+)/([1-9][0-9]{0,5})", name)
    if not match:
        raise ValueError(
            f"{where}: {shown(name)} is not of the form SIZE/PATCH, with a patch of 1 or more; "
            "give one such as `XL/2`"
        )
    require_known(where, match[1], sizes, "sizes")
    return sizes[match[1]], int(match[2])
