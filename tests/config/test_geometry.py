"""Encoders that give another number of tokens than the network has are refused when planned."""

from typing import Any

import pytest

from vrpo.config import parse_experiment
from vrpo.config.geometry import encoder_patch, latent_side
from vrpo.config.networks import EncoderOptions
from vrpo.config.reading import deep_merge, read_yaml
from vrpo.errors import UserError

from tests.fixtures import ROOT

MINI = read_yaml(ROOT / "config/mini.yaml")
IMAGENET = read_yaml(ROOT / "config/imagenet256.yaml")


def refusal(content: dict[str, Any], changes: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        parse_experiment(deep_merge(content, changes), "mine.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        (
            MINI,
            {"encoders": {"vit": {"image_size": 64}}},
            ["encoders.vit.image_size: 64 pixels are 8x8 tokens", "has 4x4; set it to 32"],
        ),
        (
            MINI,
            {"encoders": {"vit": {"arguments": {"patch_size": 4}}}},
            ["encoders.vit.image_size: 32 pixels are 8x8 tokens", "has 4x4; set it to 16"],
        ),
        (
            MINI,
            {"runs": {"fine": {"model": "mini/1", "process": "dit", "alignment": "vrpo"}}},
            ["4x4 tokens, but DiT-mini/1 of run fine has 8x8; set it to 64"],
        ),
        (
            IMAGENET,
            {"encoders": {"dinov2-b": {"image_size": 256}}},
            [
                "256 pixels are 18x18 tokens",
                "has 16x16; set it to 224",
                "or tokenizer.downsampling, 8",
            ],
        ),
        (
            IMAGENET,
            {"tokenizer": {"downsampling": 16}},
            [
                "224 pixels are 16x16 tokens",
                "has 8x8; set it to 112",
                "or tokenizer.downsampling, 16",
            ],
        ),
    ],
)
def test_tokens_that_do_not_fit_are_refused_before_they_are_encoded(
    content: dict[str, Any], changes: dict[str, Any], words: list[str]
) -> None:
    text = refusal(content, changes)
    assert all(word in text for word in words), text


def test_encoders_that_no_run_reads_may_have_any_number_of_tokens() -> None:
    spare = {"architecture": "vit_small_patch14_dinov2.lvd142m", "image_size": 518}
    config = parse_experiment(deep_merge(MINI, {"encoders": {"spare": spare}}), "mine.yaml")
    assert latent_side(config) == 8


@pytest.mark.parametrize(
    ("architecture", "arguments", "patch"),
    [
        ("vit_base_patch14_dinov2.lvd142m", {}, 14),
        ("vit_base_patch16_224", {"patch_size": 8}, 8),
        ("test_vit", {}, None),
        ("test_vit", {"patch_size": "8"}, None),
        ("test_vit", {"patch_size": 0}, None),
    ],
)
def test_the_patch_of_an_encoder(
    architecture: str, arguments: dict[str, Any], patch: int | None
) -> None:
    assert encoder_patch(EncoderOptions(architecture=architecture, arguments=arguments)) == patch
