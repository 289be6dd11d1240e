"""REG against its own code, in training, from the encoder on, and in sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vrpo.alignment.base import AlignmentContext
from vrpo.alignment.registry import build_alignment
from vrpo.config import RunConfig, parse_experiment
from vrpo.config.alignments import REGOptions
from vrpo.config.messages import validate
from vrpo.config.processes import DDPMOptions, InterpolantOptions
from vrpo.config.reading import read_yaml
from vrpo.config.scoring import SamplerOptions
from vrpo.config.training import TrainingOptions
from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.models.backbones import build_network
from vrpo.models.checkpoints import load_milestone, read_milestone
from vrpo.processes.guidance import Guided
from vrpo.processes.registry import build_process
from vrpo.processes.samplers import sample
from vrpo.sampling.draws import ImageDraws, JointDraws
from vrpo.sampling.generate import sample_latents
from vrpo.sampling.network import SamplingNetwork
from vrpo.training.building import build_objective
from vrpo.training.objective import Objective

from tests.fixtures import ROOT, golden
from tests.fixtures.training import (
    COUNT,
    LATENT,
    TOKENS,
    Toy,
    assert_equal_whatever_the_split,
    assert_same_results,
)

CPU, WIDTH = torch.device("cpu"), 24
OPTIONS = {"kind": "reg", "encoders": ["vit"], "depth": 2, "projector_width": 40}
VALUES = golden.load("reg")


def objective(kind: str = "sit", **changes: Any) -> Objective:
    options = InterpolantOptions(kind="interpolant") if kind == "sit" else DDPMOptions(kind="ddpm")
    network = build_network(golden.MODEL, golden.LATENT, 4 if kind == "sit" else 8, WIDTH)
    context = AlignmentContext(golden.LATENT, 48, {"vit": (16, WIDTH)})
    alignment = build_alignment(REGOptions(**OPTIONS, **changes), context)
    golden.fill(network)
    golden.fill(alignment.projectors, "projectors.")
    return Objective(network, alignment, build_process(options), TrainingOptions())


def inputs(t: list[Any]) -> dict[str, Any]:
    return {
        "x0": golden.draw(1, 2, *golden.LATENT),
        "noise": golden.draw(2, 2, *golden.LATENT),
        "t": torch.tensor(t),
        "labels": golden.LABELS,
        "tokens": {"vit": golden.draw(3, 2, 17, WIDTH)},
        "token_noise": golden.draw(4, 2, WIDTH),
    }


def test_losses_and_gradients_equal_the_original() -> None:
    own = objective()
    loss, metrics = own(**inputs([0.3, 0.8]))
    for name, value in (("denoising", "denoising"), ("class_token", "class_error")):
        torch.testing.assert_close(metrics[name], VALUES[value].mean(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(metrics["alignment"], VALUES["alignment"], rtol=0, atol=1e-6)
    expected = metrics["denoising"] + 0.5 * metrics["alignment"] + 0.03 * metrics["class_token"]
    torch.testing.assert_close(loss.detach(), expected)
    weights = own.network.cls_projectors2.weight, own.network.blocks[0].attn.qkv.bias
    first, attention = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(first[::8], VALUES["gradient_in"], rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(attention, VALUES["gradient_qkv"], rtol=1e-4, atol=1e-7)


def test_a_loss_that_is_no_result_is_named() -> None:
    """A custom loss may return a tensor by mistake."""
    own = objective()
    own.alignment.forward = lambda batch: batch.error.mean()
    with pytest.raises(UserError, match=r"REG: its `forward` returned a Tensor; return an Align"):
        own(**inputs([0.3, 0.8]))


def test_under_ddpm_the_error_is_that_of_the_noise() -> None:
    """And the latents' loss is that of the same prediction without a class token."""
    own, given = objective("dit", class_token_weight=2.0), inputs([100, 700])
    loss, metrics = own(**given)
    token, t = given["tokens"]["vit"][:, 0], given["t"]
    alpha_bar = own.process.alpha_bars[t].float()[:, None]
    token_t = alpha_bar.sqrt() * token + (1 - alpha_bar).sqrt() * given["token_noise"]
    x_t = own.process.corrupt(given["x0"], given["noise"], t)
    packed, _ = own.network(own.network.joint.pack(x_t, token_t), t.float(), golden.LABELS)
    latents, of_token = own.network.joint.split_prediction(packed)
    error = (of_token - given["token_noise"]).square().mean()
    torch.testing.assert_close(metrics["class_token"], error.detach(), rtol=1e-5, atol=0)
    denoising, _ = own.process.losses(latents, given["x0"], given["noise"], x_t, t)
    torch.testing.assert_close(metrics["denoising"], denoising.mean().detach())
    expected = denoising.mean() + 2 * error + 0.5 * metrics["alignment"]
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("name", "scale"), [("plain", 1.0), ("guided", 1.8)])
def test_trajectory_equals_the_original(name: str, scale: float) -> None:
    own = objective()
    joint = own.network.joint
    latents, tokens = golden.Draws(9, 2, *golden.LATENT), golden.Draws(10, 2, WIDTH)
    guided = Guided(own.network, own.process, golden.LABELS, scale, (0.0, 0.85))
    start = joint.pack(golden.draw(7, 2, *golden.LATENT), golden.draw(8, 2, WIDTH))
    options = SamplerOptions(kind="sde", steps=20)
    state = sample(own.process, options, guided, start, lambda: joint.pack(latents(), tokens()))
    torch.testing.assert_close(joint.split(state)[0], VALUES[f"sde_{name}"], rtol=0, atol=1e-4)
    assert not state[:, 4:].flatten(1)[:, WIDTH:].any()  # the padding stays zero


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("process", ["sit", "dit"])
def test_a_training_is_resumed_and_sampled(process: str, tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    config = toy.config("reg", process)
    once, twice = tmp_path / "once", tmp_path / "twice"
    milestone = toy.train_to(config, once, 12)
    toy.train_to(config, twice, 7)
    toy.train_to(config, twice, 12)
    assert_same_results(once, twice, 12)
    network, description = load_milestone(milestone)
    assert description["class_token"] == network.joint.width == TOKENS[1]
    state, projectors, _ = read_milestone(milestone)
    assert "final_layer.linear_cls.weight" in state and "projectors.0.0.weight" in projectors
    called, labels = SamplingNetwork(network), torch.tensor([0, 1, 2])
    kind = "ode-heun" if process == "sit" else "ddpm"
    options = SamplerOptions(kind=kind, steps=4)
    built = build_process(config.process)

    def latents(numbers: range) -> torch.Tensor:
        draws = ImageDraws(0, numbers, LATENT, CPU)
        return sample_latents(options, called, built, labels[numbers.start : numbers.stop], draws)

    whole = latents(range(3))
    assert whole.shape == (3, *LATENT) and torch.isfinite(whole).all()
    torch.testing.assert_close(whole[1:2], latents(range(1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_ranks_and_micro_batches_change_no_result(tmp_path: Path) -> None:
    assert_equal_whatever_the_split(Toy(tmp_path), "reg")


def test_latents_have_the_noise_of_other_networks() -> None:
    """In training and in sampling; the class token has its own, another one for each candidate."""
    joint = build_network(golden.MODEL, golden.LATENT, 4, WIDTH).joint
    draws = JointDraws(ImageDraws(3, range(2), golden.LATENT, CPU), joint)
    plain = ImageDraws(3, range(2), golden.LATENT, CPU)
    seen = []
    for _ in range(2):
        latents, token = joint.split(draws.normal())
        assert torch.equal(latents, plain.normal())
        seen.append(token)
    seen.append(joint.split(draws.again(1).normal())[1])
    assert len({each.numpy().tobytes() for each in seen}) == 3
    later = JointDraws(ImageDraws(3, range(1, 2), golden.LATENT, CPU), joint)
    assert torch.equal(joint.split(later.normal())[1], seen[0][1:])


def test_features_without_class_tokens_are_refused(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    with ArrayWriter(
        tmp_path / "plain.h5", {"tokens": ((COUNT, *TOKENS), "float16")}, {"images": "toy"}
    ) as writer:
        writer.write(0, {"tokens": np.zeros((COUNT, *TOKENS), np.float16)})
        writer.finish()
    data = TrainingData(toy.latents, {"toy": tmp_path / "plain.h5"})
    expected = "holds no class token.*set `encoders.toy.class_token: true` and encode again"
    with pytest.raises(UserError, match=expected):
        build_objective(toy.config("reg"), data, {}, CPU)
    with pytest.raises(UserError, match="no class tokens of encoder `toy`"):
        data.class_tokens("toy", np.array([0]))
    whole = TrainingData(toy.latents, {"toy": toy.features})
    stored = Arrays(toy.features).rows("class_token", slice(3, 5))
    found = whole.class_tokens("toy", np.array([3, 4]))
    assert torch.equal(found, torch.from_numpy(stored).float())


def test_class_tokens_of_another_width_are_refused(tmp_path: Path) -> None:
    toy, shapes = Toy(tmp_path), {"tokens": (COUNT, *TOKENS), "class_token": (COUNT, 9)}
    stored = {name: (shape, "float16") for name, shape in shapes.items()}
    with ArrayWriter(tmp_path / "wide.h5", stored, {"images": "toy"}) as writer:
        writer.write(0, {name: np.zeros(shape, np.float16) for name, shape in shapes.items()})
        writer.finish()
    with pytest.raises(UserError, match="class_token"):
        TrainingData(toy.latents, {"toy": tmp_path / "wide.h5"})


def test_the_config_is_checked() -> None:
    content = read_yaml(ROOT / "config/mini.yaml")
    content["alignments"]["reg"] = {**OPTIONS, "projector_width": 128}
    content["runs"]["sit-reg"] = {"model": "mini/2", "process": "sit", "alignment": "reg"}
    with pytest.raises(UserError, match=r"alignments\.reg\.encoders: `reg` denoises the class tok"):
        parse_experiment(content, "mini.yaml")
    content["encoders"]["vit"]["class_token"] = True
    config = parse_experiment(content, "mini.yaml")
    assert config.label_of("reg") == "REG"
    assert isinstance(config.run_config("sit-reg", 0), RunConfig)
    content["sizes"]["mine"] = {
        **{"depth": 2, "width": 16, "heads": 2},
        "backbone": "tests.fixtures.golden:Mixed",
    }
    content["runs"]["sit-reg"]["model"] = "mine/2"
    with pytest.raises(UserError, match="adds a class token to the network, and"):
        parse_experiment(content, "mini.yaml")
    for wrong in ({"encoders": []}, {"encoders": ["a", "b"]}, {"class_token_weight": 0}):
        with pytest.raises(UserError, match=r"encoders|class_token_weight"):
            validate(REGOptions, {**OPTIONS, **wrong}, "reg")
