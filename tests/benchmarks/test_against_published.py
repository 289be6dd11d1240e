"""The published loop trains as ours does, and both are timed in turn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.against_published import bench_against_published, published_run, table
from benchmarks.experiment import random_objective
from benchmarks.published_loop import PublishedLoop, write_single_files
from benchmarks.synthetic import write_training_data
from vrpo.config.experiment import ExperimentConfig
from vrpo.errors import UserError


def test_ratio_bench(small: ExperimentConfig, cpu: torch.device) -> None:
    record = bench_against_published(
        small, "repa", cpu, published_precision="fp32", workers=0, steps=1, rounds=2, samples=16
    )
    assert record["ratio"] > 0 and len(record["ratio_of_rounds"]) == 2
    assert "published loop (fp32, eager)" in table(record)


@pytest.mark.parametrize("name", ["none", "vrpo", "dit"])
def test_the_published_loop_trains_repa_on_sit_alone(small: ExperimentConfig, name: str) -> None:
    with pytest.raises(UserError, match=f"RUN: `{name}` is not what the published loop trains"):
        published_run(small, name)


def test_the_published_loop_trains_as_ours_does(
    small: ExperimentConfig, cpu: torch.device, tmp_path: Path
) -> None:
    """Its loss, sample by sample, is REPA's: the two are timed at the same work."""
    run = published_run(small, "repa")
    data = write_training_data(small, ["dinov2-b"], tmp_path, 8)
    write_single_files(small, "dinov2-b", tmp_path, 8)
    trained, objective = (random_objective(run, data, {}, cpu) for _ in range(2))
    loop = PublishedLoop(trained, tmp_path, batch_size=8, precision="fp32", workers=0, device=cpu)
    before = [parameter.detach().clone() for parameter in loop.model.parameters()]
    loop.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, loop.model.parameters(), strict=True))
    assert loop.logged.keys() == {"loss", "projection", "grad_norm"}
    loop.network.load_state_dict(objective.network.state_dict())
    loop.projector.load_state_dict(objective.alignment.projectors[0].state_dict())
    x, labels, tokens = torch.randn(8, 4, 32, 32), torch.arange(8), torch.randn(8, 256, 768)
    torch.manual_seed(0)
    denoising, projection = loop._losses(x, labels, [tokens])
    torch.manual_seed(0)
    t, noise = torch.rand(8, 1, 1, 1).flatten(), torch.randn_like(x)
    loss, metrics = objective(x, noise, t, labels, {"dinov2-b": tokens})
    torch.testing.assert_close(denoising.mean(), metrics["denoising"])
    torch.testing.assert_close(projection, metrics["alignment"])
    torch.testing.assert_close(denoising.mean() + 0.5 * projection, loss)
