"""Options of guidance: kinds, presets, and files of classifier-free guidance as they were."""

import pytest
from pydantic import ValidationError

from vrpo.config.guidance import guidance_name
from vrpo.config.scoring import SamplerOptions


def test_options_of_classifier_free_guidance_are_stored_as_before() -> None:
    """Another text of a resolved config would make existing samples again."""
    stored = SamplerOptions(kind="sde", guidance={"scale": 1.5}).model_dump(mode="json")
    assert stored["guidance"] == {"scale": 1.5, "interval": [0.0, 1.0], "channels": None}
    assert SamplerOptions(**stored).model_dump(mode="json") == stored
    assert list(stored)[:6] == ["preset", "kind", "steps", "rtol", "atol", "guidance"]


@pytest.mark.parametrize("kind", ["representation", "best-of"])
def test_a_preset_is_about_the_classifier_free_part(kind: str) -> None:
    guidance = {"kind": kind, "classifier_free": {"scale": 1.5}}
    sampler = SamplerOptions(preset="sit", guidance=guidance)
    assert sampler.guidance.free.model_dump() == {
        "scale": 1.5,
        "interval": (0.0, 1.0),
        "channels": 3,
    }
    assert SamplerOptions(**sampler.model_dump(mode="json")) == sampler


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        ({"kind": "representations"}, "representation"),
        ({"kind": "best-of", "scale": 2.0}, "scale"),
        ({"kind": "best-of", "candidates": 0}, "greater than or equal to 1"),
        ({"kind": "representation", "scale": -1}, "greater than or equal to 0"),
        ({"kind": "representation", "interval": [0.7, 0.2]}, "low first"),
        ({"schedule": "signal"}, "schedule"),
    ],
)
def test_options_of_another_kind_are_refused(guidance: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SamplerOptions(kind="sde", guidance=guidance)


def test_names_in_tables() -> None:
    free = {"scale": 1.5}
    assert guidance_name({"scale": 1.8}) == 1.8
    assert guidance_name({"kind": "representation", "scale": 2}) == "representation 2"
    both = guidance_name({"kind": "best-of", "candidates": 4, "classifier_free": free})
    assert both == "best of 4, classifier-free 1.5"
