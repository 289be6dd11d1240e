"""Options of REPA (`vrpo/alignment/repa.py`)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from vrpo.config.alignments.base import AlignmentOptions, ProjectedOptions
from vrpo.config.base import Options, option


class ScheduleOptions(Options):
    """A factor that a weight is multiplied by, step by step."""

    kind: Literal["constant", "linear", "cosine", "stop"] = option(
        "constant",
        "`constant`: 1; `linear`, `cosine`: from 1 at `start` to `final` at `end`; "
        "`stop`: 1 before `end`, then `final`",
    )
    start: int = option(0, "step at which `linear` and `cosine` begin to change", "steps", ge=0)
    end: int | None = option(None, "step from which the factor is `final`", "steps", ge=1)
    final: float = option(0.0, "the factor at the end", ge=0)

    @model_validator(mode="after")
    def _has_an_end(self) -> ScheduleOptions:
        constant = self.kind == "constant"
        if constant and (self.end is not None or self.start or self.final):
            raise ValueError(
                "a `constant` schedule has no `start`, `end` or `final`; "
                "leave them out or choose `linear`, `cosine` or `stop`"
            )
        if not constant and self.end is None:
            raise ValueError(
                f"a `{self.kind}` schedule needs `end`, the step at which it has reached `final`; "
                "give it"
            )
        if self.kind == "stop" and self.start:
            raise ValueError(
                "a `stop` schedule has no `start`; leave it out or choose `linear` or `cosine`"
            )
        if self.kind in ("linear", "cosine") and self.start >= (self.end or 0):
            raise ValueError(
                f"`start` {self.start} must be before `end` {self.end}; change one of them"
            )
        return self


class StaticOptions(AlignmentOptions):
    """Alignments whose weight is a function of the step alone."""

    weight_schedule: ScheduleOptions = option(
        ScheduleOptions, "factor of `weight` (lambda), step by step"
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> StaticOptions:
        if self.weight == 0:
            raise ValueError("`weight` is zero, nothing is aligned; use `kind: none` for that")
        return self


class REPAOptions(StaticOptions, ProjectedOptions):
    """REPA: mean negative cosine of projected hidden and encoder tokens (arXiv:2410.06940)."""

    title: ClassVar[str] = "REPA"
    loss: ClassVar[str] = "vrpo.alignment.repa:REPA"
    kind: Literal["repa"] = option(..., "static alignment")
