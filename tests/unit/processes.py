"""Processes by their options."""

from __future__ import annotations

from typing import Any

from vrpo.config.processes import DDPMOptions, InterpolantOptions
from vrpo.processes.ddpm import DDPM
from vrpo.processes.interpolant import Interpolant


def interpolant(path: str = "linear", time: str = "uniform") -> Interpolant:
    return Interpolant(InterpolantOptions(kind="interpolant", path=path, time=time))


def ddpm(betas: str = "linear", steps: int = 1000, **options: Any) -> DDPM:
    return DDPM(DDPMOptions(kind="ddpm", betas=betas, steps=steps, **options))
