"""Options of guidance: classifier-free, by the aligned representation, and best of G."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Tag, TypeAdapter, model_validator

from vrpo.config.base import Options, WorkflowPlace, option

TARGETS = "targets"
"""Kind of the files that hold targets, the output of `class-tokens` and `image-tokens`."""


class GuidanceOptions(Options):
    """Classifier-free guidance (arXiv:2207.12598), where no `kind` is given."""

    scale: float = option(1.0, "guidance scale; 1 is none", ge=0)
    interval: tuple[float, float] = option(
        (0.0, 1.0), "noise levels (0 is clean, 1 is noise) on which guidance acts"
    )
    channels: int | None = option(
        None,
        "guide only the first so many latent channels (DiT and SiT: 3); null: all (REPA)",
        ge=1,
    )

    rewarded: ClassVar[bool] = False
    """Whether the semantic reward steers or chooses: a projector and targets are needed."""
    standardised: ClassVar[bool] = False
    """Whether the reward's deviation by noise level is needed."""

    @property
    def name(self) -> str:
        """Name in tables: `none`, `classifier-free 1.5`, `representation 2` or `best of 8`."""
        return "none" if self.scale == 1 else f"classifier-free {self.scale:g}"

    @model_validator(mode="after")
    def _inside(self) -> GuidanceOptions:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"guidance `interval` [{low}, {high}] must lie within [0, 1], low first; correct it"
            )
        return self

    @property
    def free(self) -> GuidanceOptions:
        """The classifier-free part."""
        return self


class RepresentationGuidanceOptions(GuidanceOptions):
    """Guidance by the aligned representation (docs/guidance.md), after REPA-G (arXiv:2602.03753).

    The network needs a projector: REPA, iREPA, HASTE, VRPO, contrastive, relational or custom.
    """

    kind: Literal["representation"] = option(..., "the gradient of the semantic reward")
    scale: float = option(
        1.0, "weight of the reward, in its standard deviations at the noise level; 0 is none", ge=0
    )
    schedule: Literal["signal", "constant"] = option(
        "signal",
        "factor of `scale`: `signal`: the coefficient of x_0 in x_t, 0 at pure noise (REPA-G); "
        "`constant`: 1",
    )
    standardise: bool = option(
        True,
        "divide the reward by its deviation at its noise level; "
        "false, an ablation: the raw cosine, as REPA-G",
    )
    target: WorkflowPlace | None = option(
        None,
        "image file whose tokens are every image's target; null: mean tokens of the image's class",
    )
    classifier_free: GuidanceOptions = option(GuidanceOptions, "classifier-free guidance beside it")

    rewarded: ClassVar[bool] = True

    @property
    def standardised(self) -> bool:
        """See the base class."""
        return self.standardise and self.scale > 0

    @property
    def free(self) -> GuidanceOptions:
        """See the base class."""
        return self.classifier_free

    @property
    def name(self) -> str:
        """See the base class."""
        reward = "representation" if self.standardise else "representation (raw)"
        return _joined(f"{reward} {self.scale:g}", self.free)


class BestOfOptions(Options):
    """Of several candidates for each image the one with the highest semantic reward is kept."""

    kind: Literal["best-of"] = option(..., "the plain baseline of guidance by representation")
    candidates: int = option(
        8, "G, candidates for each image, each with its own noise; 1 is none", "images", ge=1
    )
    target: WorkflowPlace | None = option(None, "as of guidance by representation")
    classifier_free: GuidanceOptions = option(
        GuidanceOptions, "classifier-free guidance of all candidates"
    )

    rewarded: ClassVar[bool] = True
    standardised: ClassVar[bool] = False

    @property
    def free(self) -> GuidanceOptions:
        """See `GuidanceOptions`."""
        return self.classifier_free

    @property
    def name(self) -> str:
        """See `GuidanceOptions`."""
        return _joined(f"best of {self.candidates}", self.free)


def _joined(own: str, free: GuidanceOptions) -> str:
    return own if free.scale == 1 else f"{own}, {free.name}"


def _kind(content: Any) -> str:
    """`kind` as given; classifier-free guidance has none, so that its files stay as they are."""
    given = content if isinstance(content, dict) else getattr(content, "__dict__", {})
    return str(given["kind"]) if "kind" in given else "classifier-free"


AnyGuidance = Annotated[
    Annotated[GuidanceOptions, Tag("classifier-free")]
    | Annotated[RepresentationGuidanceOptions, Tag("representation")]
    | Annotated[BestOfOptions, Tag("best-of")],
    Discriminator(_kind),
]


def guidance_name(content: Mapping[str, Any]) -> float | str | None:
    """The guidance of a record's protocol: the classifier-free scale, or a name."""
    if content.get("kind") is None:
        return content.get("scale")
    return TypeAdapter(AnyGuidance).validate_python(dict(content)).name


def with_preset(preset: dict[str, Any], guidance: dict[str, Any]) -> dict[str, Any]:
    """The options `guidance`, its classifier-free part completed by those of a preset."""
    if guidance.get("kind") is None:
        return {**preset, **guidance}
    free = guidance.get("classifier_free") or {}
    return (
        {**guidance, "classifier_free": {**preset, **free}} if isinstance(free, dict) else guidance
    )
