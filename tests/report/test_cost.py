"""Costs against the papers' FLOPs, parameters and sampling protocols."""

import pytest
import torch

from vrpo.config import load_experiment
from vrpo.config.alignments import REGOptions, SRAOptions
from vrpo.config.alignments.base import SpatialOptions
from vrpo.config.networks import EncoderOptions
from vrpo.errors import UserError
from vrpo.models.backbones import build_network
from vrpo.report.cost import (
    costs,
    describe_cost,
    encoder_tokens,
    parameters,
    run_flops,
    sampling_flops,
    training_flops,
)
from vrpo.report.evaluations import network_evaluations

from tests.fixtures import ROOT


@pytest.mark.parametrize(
    ("run", "gflop", "million"),
    [
        ("sit-b2-repa", 149, 130),
        ("sit-l2-repa", 496, 458),
        ("sit-xl2-repa", 724, 675),
        ("dit-xl2-vrpo", 724, 675),
    ],
)
def test_flops_and_parameters_of_the_papers_sizes(run: str, gflop: float, million: float) -> None:
    config = load_experiment(ROOT / "config/imagenet256.yaml")
    resolved = config.run_config(run, 0)
    assert sum(training_flops(resolved, config).values()) / 1e9 == pytest.approx(gflop, rel=0.01)
    assert parameters(resolved, 32, 4) / 1e6 == pytest.approx(
        million, rel=0.005
    )  # DiT, table 1; SiT, table 1


def test_a_convolutional_projector_is_counted() -> None:
    """2 N W D k^2 for a forward pass in the place of REPA's three layers.

    A backward pass is two more.
    """
    config = load_experiment(ROOT / "config/imagenet256.yaml")
    run = config.run_config("sit-b2-vrpo", 0)
    mlp = run.alignment.projector_width
    plain, spatial = (
        run.model_copy(update={"alignment": run.alignment.model_copy(update={"spatial": spatial})})
        for spatial in (None, SpatialOptions(kernel_size=3))
    )
    saved = 3 * 2 * 256 * (768 * mlp + mlp**2 + mlp * 768 - 9 * 768 * 768)
    with_mlp, with_convolution = (training_flops(each, config) for each in (plain, spatial))
    saving = with_mlp["projector"] - with_convolution["projector"]
    assert saving == pytest.approx(saved)
    assert with_mlp | {"projector": 0} == with_convolution | {"projector": 0}


def test_the_averaged_network_of_sra_is_counted() -> None:
    """One forward pass of 20 of 28 blocks, and a projector of 4 W^2 numbers."""
    config = load_experiment(ROOT / "config/imagenet256.yaml")
    plain = config.run_config("sit-xl2-none", 0)
    run = plain.model_copy(update={"alignment": SRAOptions(kind="sra", target_depth=20)})
    counted, forward = training_flops(run, config), run_flops(plain, 32, 4)
    assert counted["network"] == pytest.approx((3 + 20 / 28) * forward)
    assert counted["projector"] == pytest.approx(3 * 2 * 256 * 4 * 1152**2)
    assert counted["critic"] == 0


def test_the_class_token_of_reg_is_counted() -> None:
    """One more token of the network and of the projector; REG's paper has 677 M parameters."""
    config = load_experiment(ROOT / "config/imagenet256.yaml")
    plain = config.run_config("sit-xl2-repa", 0)
    reg = REGOptions(kind="reg", encoders=plain.alignment.encoders)
    run = plain.model_copy(update={"alignment": reg})
    with torch.device("meta"):
        network = build_network(run.model, (4, 32, 32), 4, 768)
    assert parameters(run, 32, 4, 768) == sum(each.numel() for each in network.parameters())
    one, other = (training_flops(each, config) for each in (plain, run))
    assert other["projector"] == pytest.approx(one["projector"] * 257 / 256)
    assert 1 < other["network"] / one["network"] < 1.005  # "less than 0.5%", REG


def test_sampling_cost_of_the_paper() -> None:
    config = load_experiment(ROOT / "config/imagenet256.yaml")
    one = run_flops(config.run_config("sit-xl2-none", 0), 32, 4)
    assert one / 1e9 == pytest.approx(237, rel=0.01)
    assert network_evaluations(config.samplers["sde"]) == 250
    assert network_evaluations(config.samplers["sde-guided"]) == pytest.approx(
        250 * (1 + 0.66 / 0.96)
    )
    assert network_evaluations(config.samplers["ddpm-guided"]) == 500


def test_cost_table_adds_up() -> None:
    config = load_experiment(ROOT / "config/imagenet256.yaml")
    *rows, total = costs(config)
    assert total.hours == pytest.approx(sum(row.hours for row in rows))
    features = next(row for row in rows if row.what.startswith("features"))
    assert features.bytes == pytest.approx(
        252e9, rel=0.01
    )  # 256 x 768 int8 with a float16 scale a token
    assert describe_cost(config).splitlines()[0].startswith("| stage")


def test_cost_of_an_unknown_encoder_is_refused() -> None:
    assert encoder_tokens(
        EncoderOptions(architecture="vit_large_patch14_dinov2", image_size=224)
    ) == (256, 1024, 24)
    with pytest.raises(UserError, match="its cost is not known"):
        encoder_tokens(EncoderOptions(architecture="resnet50"))


def test_cost_of_guidance_by_representation() -> None:
    """A backward pass of the first blocks for each evaluation inside; G candidates, each scored."""
    config = load_experiment(ROOT / "config/imagenet256.yaml")
    run, resolved = "sit-xl2-repa", config.run_config("sit-xl2-repa", 0)
    one, depth = run_flops(resolved, 32, 4), resolved.alignment.depth / 28
    mlp = resolved.alignment.projector_width
    projector = 2 * 256 * (1152 * mlp + mlp**2 + mlp * 768)
    sampler = config.samplers["sde"]

    def cost(**guidance: object) -> float:
        options = type(sampler)(**{**sampler.model_dump(mode="json"), "guidance": guidance})
        return sampling_flops(config, run, options)

    assert cost() == pytest.approx(250 * one)
    steered = {"kind": "representation", "interval": (0.0, 0.52)}
    assert cost(**steered) == pytest.approx(250 * (one + 0.5 * (depth * one + 2 * projector)))
    assert cost(**steered, scale=0) == cost(kind="best-of", candidates=1) == cost()
    both = cost(**steered, classifier_free={"scale": 1.5}) - cost(**steered)
    assert both == pytest.approx(250 * one)
    best = 8 * (250 * one + depth * one + projector)
    assert cost(kind="best-of", candidates=8) == pytest.approx(best)
