"""Options of the rows of the comparison: network sizes, runs, official checkpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, model_validator

from vrpo.config.base import Ascending, Options, Seeds, WorkflowPlace, option
from vrpo.config.classes import CLASS

FAMILIES = {  # official code: its name in papers
    "dit": "DiT",
    "sit": "SiT",
    "repa": "REPA",
    "irepa": "iREPA",
    "haste": "HASTE",
    "reg": "REG",
}
CHECKPOINT_PROCESS = {family: "ddpm" if family == "dit" else "interpolant" for family in FAMILIES}


class ModelSize(Options):
    """A transformer's size beside the papers' S, B, L and XL."""

    depth: int = option(..., "transformer blocks", ge=1)
    width: int = option(..., "channels of a token; a multiple of `heads` and of 4", ge=4)
    heads: int = option(..., "attention heads", ge=1)

    @model_validator(mode="after")
    def _divisible(self) -> ModelSize:
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"`width` {self.width} must be a multiple of `heads` ({self.heads}) and of 4"
            )
        return self


class CustomSize(ModelSize):
    """A custom network in place of the transformer (docs/extending.md)."""

    backbone: str = option(..., "`module:Class` in a module beside the Snakefile", pattern=CLASS)
    arguments: dict[str, Any] = option(dict, "further keyword arguments of the class")


def _size_kind(size: Any) -> str:
    named = isinstance(size, dict) and "backbone" in size
    return "custom" if named or isinstance(size, CustomSize) else "transformer"


AnySize = Annotated[
    Annotated[ModelSize, Tag("transformer")] | Annotated[CustomSize, Tag("custom")],
    Discriminator(_size_kind),
]


class RunOptions(Options):
    """One row of the comparison."""

    model: str = option(
        ..., "size and patch, e.g. `XL/2`, `B/4`; sizes are S, B, L, XL and those under `sizes`"
    )
    process: str = option(..., "a key of `processes`")
    alignment: str = option(..., "a key of `alignments`")
    seeds: Seeds | None = option(None, "seeds of this run; null: the experiment's", min_length=1)
    milestones: Ascending | None = option(
        None, "milestones of this run; null: the experiment's", "steps", min_length=1
    )


class CheckpointOptions(Options):
    """Weights of the official code of `family`, sampled and scored as a run."""

    file: WorkflowPlace = option(
        ..., "the `.pt` or `.safetensors` file, e.g. `weights/SiT-XL-2-256.pt`"
    )
    family: Literal["dit", "sit", "repa", "irepa", "haste", "reg"] = option(
        ..., "whose code wrote it; DiT's are sampled as `ddpm`, the others as `interpolant`"
    )
    model: str = option(..., "size and patch, e.g. `XL/2`, as in `runs`")
    weights: Literal["ema", "model"] = option(
        "ema", "averaged or plain weights, where the file has both"
    )
    step: int = option(0, "training steps, for tables; 0: unknown", "steps", ge=0)
    seed: int = option(0, "training seed, for tables", ge=0)
