"""How a weight changes in the course of a training."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vrpo.config.base import Options, option


class ScheduleOptions(Options):
    """A factor that a weight is multiplied by, step by step."""

    kind: Literal["constant", "linear", "cosine", "stop", "adaptive"] = option(
        "constant",
        "`constant`: 1; `linear`, `cosine`: from 1 at `start` to `final` at `end`; `stop`: 1 before `end`, `final` from then on; `adaptive`: the measured "
        "agreement of the alignment's and the denoising's gradient at this noise level over the highest so far at any, between 1e-4 and 1; for lambda alone",
    )
    start: int = option(0, "step at which `linear` and `cosine` begin to change", "steps", ge=0)
    end: int | None = option(None, "step at which `linear` and `cosine` have reached `final`, and at which `stop` stops", "steps", ge=1)
    final: float = option(0.0, "the factor at the end", ge=0)

    @model_validator(mode="after")
    def _has_an_end(self) -> ScheduleOptions:
        needs_end = self.kind in ("linear", "cosine", "stop")
        if needs_end and self.end is None:
            raise ValueError(f"a `{self.kind}` schedule needs `end`, the step at which it has reached `final`; give it")
        if not needs_end and (self.end is not None or self.start):
            raise ValueError(f"a `{self.kind}` schedule has neither `start` nor `end`; leave them out or choose `linear`, `cosine` or `stop`")
        if not needs_end and self.final:
            raise ValueError(f"a `{self.kind}` schedule has no `final`; leave it out or choose `linear`, `cosine` or `stop`")
        if self.kind == "stop" and self.start:
            raise ValueError("a `stop` schedule has no `start`; leave it out or choose `linear` or `cosine`")
        if self.kind in ("linear", "cosine") and self.start >= (self.end or 0):
            raise ValueError(f"`start` {self.start} must lie before `end` {self.end}; change one of them")
        return self
