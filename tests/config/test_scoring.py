"""Sampling protocols by name."""

import pytest
from pydantic import ValidationError

from vrpo.config.scoring import SamplerOptions

from tests.fixtures.config import changed, refusal


@pytest.mark.parametrize(
    ("preset", "kind", "labels", "rounding", "channels"),
    [
        ("repa", "sde", "random", "truncate", None),
        ("sit", "sde", "random", "round", 3),
        ("dit", "ddpm", "random", "round", 3),
        ("balanced", "sde", "balanced", "truncate", None),
    ],
)
def test_sampler_presets_are_the_papers(preset, kind, labels, rounding, channels):
    sampler = SamplerOptions(preset=preset)
    assert (sampler.kind, sampler.steps, sampler.images, sampler.labels, sampler.rounding) == (
        kind,
        250,
        50_000,
        labels,
        rounding,
    )
    assert (sampler.guidance.scale, sampler.guidance.channels, sampler.decoder) == (
        1.0,
        channels,
        "stabilityai/sd-vae-ft-ema",
    )
    assert SamplerOptions.model_validate(sampler.model_dump(mode="json")) == sampler


def test_what_is_given_beside_a_preset_wins():
    sampler = SamplerOptions(
        preset="dit", kind="ddim", steps=50, decoder=None, guidance={"scale": 1.5}
    )
    assert (sampler.kind, sampler.steps, sampler.decoder, sampler.rounding) == (
        "ddim",
        50,
        None,
        "round",
    )
    assert (sampler.guidance.scale, sampler.guidance.channels) == (1.5, 3)
    assert SamplerOptions(preset="sit", guidance={"channels": None}).guidance.channels is None
    with pytest.raises(ValidationError, match="preset"):
        SamplerOptions(preset="adm", kind="sde")


def test_a_foreign_decoder_is_refused_for_a_trained_tokenizer():
    text = refusal(changed(samplers={"ode": {"preset": "repa"}}))
    assert (
        "samplers.ode.decoder: `stabilityai/sd-vae-ft-ema` does not decode latents of a "
        "trained tokenizer; set `decoder: null`" in text
    )
