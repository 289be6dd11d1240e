"""Files of guidance by representation, and the runs that it serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from vrpo.config import ExperimentConfig, merge_configs, parse_experiment
from vrpo.errors import UserError
from vrpo.plan.inputs import Inputs

from tests.fixtures.workflow import TINY

GUIDED = {"kind": "ddpm", "steps": 2, "guidance": {"kind": "representation"}}


def config(**samplers: dict[str, object]) -> ExperimentConfig:
    content = merge_configs([TINY])
    content["runs"]["dit-vrpo"] = {"model": "tiny/2", "process": "dit", "alignment": "vrpo"}
    content["samplers"] |= samplers
    return parse_experiment(content, "test")


def test_only_aligned_runs_are_served() -> None:
    experiment = config(guided=GUIDED)
    assert experiment.samplers_of("dit-vrpo") == ["ddpm", "guided"]
    assert experiment.samplers_of("dit-none") == ["ddpm"]
    assert experiment.samplers_of("sit-vrpo") == ["ode"]
    inputs = Inputs(experiment)
    with pytest.raises(UserError, match=r"`guided` guides by .*`dit-none` has no projector; name"):
        inputs.samples("dit-none", "0", "0000016", "guided")
    with pytest.raises(UserError, match="`dit-none` has no projector to an encoder"):
        inputs.aligned("dit-none", "0", "0000016")
    assert inputs.aligned("dit-vrpo", "0", "0000016").name == "step0000016.safetensors"


def test_a_run_that_nothing_samples_is_refused() -> None:
    content = merge_configs([TINY])
    content["samplers"]["ddpm"] = GUIDED
    with pytest.raises(
        UserError, match=r"runs.dit-none: no sampler belongs .*, but those for aligned"
    ):
        parse_experiment(content, "test")


def test_files_of_a_guided_sampler(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    by_image = {**GUIDED, "guidance": {"kind": "best-of", "target": str(image)}}
    raw = {**GUIDED, "guidance": {"kind": "representation", "standardise": False}}
    inputs = Inputs(config(guided=GUIDED, image=by_image, raw=raw))
    key = "dit-vrpo", "0", "0000016"
    assert [str(path) for path in inputs.targets_of("dit-vrpo", "guided").values()] == [
        "results/tiny/targets/vit/classes.safetensors"
    ]
    (path,) = inputs.targets_of("dit-vrpo", "image").values()
    assert path.name == "image-image.safetensors"
    assert inputs.targets_of("dit-vrpo", "ddpm") == {}
    assert [each.name for each in inputs.moments_of(*key, "guided")] == ["step0000016.json"]
    assert inputs.moments_of(*key, "raw") == inputs.moments_of(*key, "image") == []
    with pytest.raises(UserError, match=r"samplers.image.guidance.target: there is no file"):
        inputs.target_image("vit", "image")
    image.touch()
    assert inputs.target_image("vit", "image") == image
