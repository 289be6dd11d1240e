"""The benchmark of sampling runs, and counts the images that pass the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import sample
from benchmarks.experiment import timed_run
from benchmarks.sample import bench_sample, table, timed_sampler
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.reading import read_experiment
from vrpo.errors import UserError
from vrpo.report.cost import training_flops


@pytest.mark.parametrize("sampler", ["sde", "heun"])
def test_sampling_bench(
    small: ExperimentConfig, cpu: torch.device, sampler: str, tmp_path: Path
) -> None:
    output = tmp_path / "bench.json"
    record = bench_sample(small, "repa", sampler, cpu, timed_steps=3, decode=False, output=output)
    assert json.loads(output.read_text()) == json.loads(json.dumps(record))
    assert record["settings"]["steps"] == 250 and record["timed_steps"] == 3
    assert record["hours_for_50000"] == pytest.approx(50_000 / 3600 / record["images_per_second"])
    assert "50,000 images" in table(record) and "not timed" in table(record)


@pytest.mark.parametrize(("sampler", "passes"), [("sde", 3), ("heun", 2 * 5)])
def test_work_is_counted_by_image(
    small: ExperimentConfig,
    cpu: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    passes: int,
) -> None:
    """Under guidance, images pass twice; Heun's method has two evaluations a step but the last."""
    monkeypatch.setattr(sample, "matrix_peak", lambda precision, device: 1.0)
    record = bench_sample(small, "none", sampler, cpu, timed_steps=3, decode=False)
    forward = training_flops(timed_run(small, "none"), small)["network"] / 3
    rate = record["utilisation"] / forward  # passes of an image in a second
    seconds = record["seconds_an_image"]["network"] * 3 / 250
    assert rate * seconds == pytest.approx(passes)


def test_the_decoder_is_that_of_the_tokenizer(configs: list, cpu: torch.device) -> None:
    tokenizer = "tokenizer={weights: trained, block_channels: [8, 8, 8, 8]}"
    config = read_experiment(configs, [tokenizer, "samplers.sde-guided.decoder=null"])
    record = bench_sample(config, "none", "sde", cpu, timed_steps=1, decode=True)
    assert record["seconds_an_image"]["decoding"] > 0


def test_samplers_are_those_of_the_runs_process(small: ExperimentConfig) -> None:
    assert timed_sampler(small, "none", "sde").batch_size == 2
    message = "SAMPLER: `ddpm` is no sampler of run none, whose process is `interpolant`; known"
    with pytest.raises(UserError, match=message):
        timed_sampler(small, "none", "ddpm")
    with pytest.raises(UserError, match=r"did you mean `ddpm`\?"):
        timed_sampler(small, "dit", "dppm")
    with pytest.raises(UserError, match="`ode-dopri5` chooses its steps"):
        timed_sampler(small, "none", "dopri5")
