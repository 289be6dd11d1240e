"""Options of a config with settings over them, and FLOPs of its runs against PyTorch's counter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.experiment import (
    latent_shape,
    random_network,
    random_objective,
    timed_run,
    token_shape,
)
from benchmarks.synthetic import write_critics, write_training_data
from vrpo.config import load_experiment
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.reading import parse_settings, read_experiment
from vrpo.errors import UserError
from vrpo.report.cost import training_flops

ROOT = Path(__file__).parents[2]
IMAGENET, MINI = ROOT / "config/imagenet256.yaml", ROOT / "config/mini.yaml"


def test_settings_are_nested_yaml_and_later_ones_win() -> None:
    settings = ["training.batch_size=8", "training={compile: no, batch_size: 16}", "a.b=[1, x=2]"]
    assert parse_settings([*settings, "a.c="]) == {
        "training": {"batch_size": 16, "compile": False},
        "a": {"b": [1, "x=2"], "c": None},
    }


@pytest.mark.parametrize("setting", ["training", "=1", "training.=1", ".x=1", ""])
def test_other_settings_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match=r"not of the form KEY=VALUE; give e\.g\. training"):
        parse_settings([setting])


def test_a_value_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--set training.batch_size: line 1: not valid YAML"):
        parse_settings(["training.batch_size=[8"])


def test_runs_are_those_of_the_config_with_settings_over_them() -> None:
    own, plain = read_experiment([IMAGENET]), load_experiment(IMAGENET)
    for name in ("sit-b2-vrpo", "dit-xl2-repa"):
        assert timed_run(own, name) == plain.run_config(name, 0)
    added = "runs.x={model: S/2, process: dit, alignment: vrpo}"
    changed = read_experiment([IMAGENET], ["training.batch_size=8", added])
    assert timed_run(changed, "x").training.batch_size == 8
    assert timed_run(changed, "x").model.name == "DiT-S/2"


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(UserError, match=r"imagenet256.yaml \+ --set: unknown option `batch`.*"):
        read_experiment([IMAGENET], ["training.batch=8"])


def test_runs_that_cannot_be_timed_are_refused(small: ExperimentConfig, configs: list) -> None:
    with pytest.raises(UserError, match=r"RUN: `rapa` is not in `runs`; did you mean `repa`\?"):
        timed_run(small, "rapa")
    online = read_experiment(configs, ["encoders.dinov2-b.features=online"])
    with pytest.raises(UserError, match=r"give --set encoders\.dinov2-b\.features=cached"):
        timed_run(online, "repa")
    haste = read_experiment(
        configs,
        [
            "encoders.dinov2-b.attention=[1]",
            "alignments.haste={kind: haste, encoders: [dinov2-b], depth: 1, attention_blocks: [1]}",
            "runs.repa.alignment=haste",
        ],
    )
    with pytest.raises(UserError, match="alignment `haste` reads attention of the encoder"):
        timed_run(haste, "repa")


def test_shapes_follow_from_tokenizer_and_encoder() -> None:
    imagenet, mini = read_experiment([IMAGENET]), read_experiment([MINI])
    assert (latent_shape(imagenet), token_shape(imagenet, "dinov2-b")) == ((4, 32, 32), (256, 768))
    assert (latent_shape(mini), token_shape(mini, "vit")) == ((4, 8, 8), (16, 96))


def test_networks_are_the_same_each_time_and_not_at_zero(small: ExperimentConfig) -> None:
    run = timed_run(small, "dit")
    one, other = (random_network(small, run) for _ in range(2))
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)) and parameter.abs().sum() > 0


@pytest.mark.parametrize("name", ["sit-s2-none", "sit-s2-repa", "sit-s2-perceptual", "dit-s8-none"])
def test_flops_are_those_of_the_networks(name: str, configs: list, tmp_path: Path) -> None:
    """PyTorch's counter sees all matrix products: forward and backward pass of an image."""
    config = read_experiment(configs, ["critic={width: 64, depth: 2}"])
    run, shape = timed_run(config, name), latent_shape(config)
    data = write_training_data(config, run.alignment.encoders, tmp_path, 8)
    critics = write_critics(config, data, tmp_path)
    objective = random_objective(run, data, critics, torch.device("cpu"))
    count = max(2, run.alignment.group)
    x0, t, labels = (
        torch.randn(count, *shape),
        objective.process.sample_times(count, torch.Generator()),
        torch.zeros(count, dtype=torch.int64),
    )
    encoded = {"dinov2-b": torch.randn(count, *token_shape(config, "dinov2-b"))}
    step = torch.zeros((), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        objective(x0, torch.randn_like(x0), t, labels, encoded, None, {}, step)[0].backward()
    counted = training_flops(run, config)
    assert counter.get_total_flops() / count == pytest.approx(sum(counted.values()), rel=0.03)
    assert (counted["critic"] > 0) == (name == "sit-s2-perceptual")


def test_published_sizes_of_the_work() -> None:
    config = read_experiment([IMAGENET])
    repa = {
        name: sum(training_flops(timed_run(config, name), config).values()) / 1e9
        for name in ("sit-xl2-repa", "sit-l2-repa", "sit-b2-repa")
    }
    expected = {"sit-xl2-repa": 724, "sit-l2-repa": 496, "sit-b2-repa": 149}
    assert repa == pytest.approx(expected, rel=0.005)
