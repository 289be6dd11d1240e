"""The diffusion processes, by the kind of their options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from vrpo.config.processes import DDPMOptions, InterpolantOptions, ProcessOptions
from vrpo.processes.ddpm import DDPM
from vrpo.processes.interpolant import Interpolant
from vrpo.processes.process import Process

PROCESSES = {"interpolant": Interpolant, "ddpm": DDPM}
OPTIONS = TypeAdapter(ProcessOptions)


def build_process(options: InterpolantOptions | DDPMOptions) -> Process:
    """The process that `options` describe."""
    return PROCESSES[options.kind](options)


def described_process(description: Mapping[str, Any]) -> Process:
    """The process that a milestone was trained in, by its description.

    Official checkpoints say nothing of a weighted loss: theirs is the default, the plain one.
    """
    return build_process(OPTIONS.validate_python(description["process"]))
