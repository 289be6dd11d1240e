"""Evaluations of networks that one sampled image takes."""

from __future__ import annotations

from vrpo.config.guidance import RepresentationGuidanceOptions
from vrpo.config.scoring import SamplerOptions


def network_evaluations(sampler: SamplerOptions) -> float:
    """Evaluations of the network for one image.

    Classifier-free guidance doubles those inside its interval; each candidate has its own.
    """
    free = sampler.guidance.free
    guided = _share(sampler, free.interval) if free.scale != 1 else 0.0
    candidates = getattr(sampler.guidance, "candidates", 1)
    return candidates * _evaluations(sampler) * (1 + guided)


def reward_passes(sampler: SamplerOptions) -> float:
    """Passes up to the aligned block, projector included, for one image, that the reward adds.

    The gradient takes a backward pass to the input, as much as a forward pass, of each evaluation
    inside the interval. Each of several candidates is scored once.
    """
    guidance = sampler.guidance
    if isinstance(guidance, RepresentationGuidanceOptions) and guidance.scale > 0:
        return _evaluations(sampler) * _share(sampler, guidance.interval)
    candidates = getattr(guidance, "candidates", 1)
    return candidates if candidates > 1 else 0.0


def _evaluations(sampler: SamplerOptions) -> int:
    return sampler.steps * (2 if sampler.kind == "ode-heun" else 1)


def _share(sampler: SamplerOptions, interval: tuple[float, float]) -> float:
    """Share of the evaluations at noise levels in an interval."""
    low, high = interval
    first, last = (0.04 if sampler.kind == "sde" else 0.0), 1.0  # noise levels, evenly visited
    return max(0.0, min(high, last) - max(low, first)) / (last - first)
