"""Deviation of the semantic reward by noise level: that of the training, or measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vrpo.alignment.moments import moments_beside, read_moments
from vrpo.config.alignments.base import NOISE_BINS
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.models.checkpoints import load_milestone, read_network
from vrpo.processes.registry import described_process
from vrpo.sampling import moments
from vrpo.sampling.moments import reward_moments
from vrpo.sampling.reward import load_projectors

from tests.fixtures.training import COUNT, Toy


def moments_of(toy: Toy, milestone: Path, output: Path) -> dict[str, object]:
    reward_moments(milestone, toy.latents, {"toy": toy.features}, output, "cpu")
    return json.loads(output.read_text())


def test_running_moments_of_the_training_are_taken(tmp_path: Path) -> None:
    """They equal those of the state that the training saved, where enough rollouts were seen."""
    toy = Toy(tmp_path)
    milestone = toy.train_to(toy.config("vrpo"), tmp_path / "run", 12)
    (state_path,) = (tmp_path / "run/state").glob("*/step0000012.pt")
    sums = torch.load(state_path, weights_only=True)["objective"]["alignment.statistics.sums"]
    found = moments_of(toy, milestone, tmp_path / "moments.json")
    assert found["source"] == "training"
    assert found["config_sha256"] == read_network(milestone)[1]["config_sha256"]
    count, total, squares = sums[:, 2]
    for level in range(NOISE_BINS):
        inverse_std = found["rewards"]["semantic"]["inverse_std"][level]
        if count[level] < (1 - 0.99) * 3:
            assert inverse_std == 0
            continue
        mean = total[level] / count[level]
        assert found["rewards"]["semantic"]["mean"][level] == pytest.approx(float(mean))
        std = float((squares[level] / count[level] - mean**2).sqrt())
        assert inverse_std == pytest.approx(1 / std, rel=1e-6)
    assert moments_beside(milestone).is_file()
    assert [path.name for path in milestone.parent.glob("*.safetensors")] == [milestone.name]


@pytest.mark.parametrize(
    ("kind", "process"), [("repa", "sit"), ("repa", "dit"), ("reg", "sit"), ("reg", "dit")]
)
def test_moments_of_static_alignments_are_measured(
    tmp_path: Path, kind: str, process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain loop over images and noise levels, one at a time."""
    monkeypatch.setattr(moments, "BATCH", 16)
    toy = Toy(tmp_path)
    milestone = toy.train_to(toy.config(kind, process), tmp_path / "run", 2)
    assert not moments_beside(milestone).exists()
    found = moments_of(toy, milestone, tmp_path / "moments.json")
    assert found["source"] == "measured"
    network, description = load_milestone(milestone)
    alignment, process_ = load_projectors(milestone, "cpu"), described_process(description)
    data = TrainingData(toy.latents, {"toy": toy.features})
    for level in (0, 9, 19):
        rewards = []
        for index in range(COUNT):
            batch = data.gather(np.array([index]))
            (draws,) = moments._draws(np.array([index]), level, data.latent_shape)
            t = process_.at_level((level + 0.5) / 20, 1)
            x = process_.corrupt(batch.mean + batch.std * draws[0], draws[1][None], t)
            if kind == "reg":
                token = data.class_tokens("toy", np.array([index]))
                size = (token.shape[1],)
                ((_, noise),) = moments._draws(np.array([index]), level, size, "class-token")
                x = network.joint.noised(x, token, noise[None], t, process_.corrupt)
            with torch.no_grad():
                hidden = network.hidden(x, process_.network_time(t), batch.labels, 1)[:, -4:]
                rewards.append(float(alignment.cosine(hidden, batch.tokens)))
        assert found["rewards"]["semantic"]["mean"][level] == pytest.approx(np.mean(rewards))
        inverse_std = found["rewards"]["semantic"]["inverse_std"][level]
        assert inverse_std == pytest.approx(1 / np.std(rewards), rel=1e-3)


def test_what_has_no_projector_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    milestone = toy.train_to(toy.config("none"), tmp_path / "none", 1)
    with pytest.raises(UserError, match="has no projector to an encoder"):
        moments_of(toy, milestone, tmp_path / "moments.json")
    milestone = toy.train_to(toy.config("repa"), tmp_path / "repa", 1)
    with pytest.raises(UserError, match=r"--features: .* encoder `toy`; give toy=FILE"):
        reward_moments(milestone, toy.latents, {}, tmp_path / "moments.json", "cpu")
    other = moments_of(toy, milestone, tmp_path / "moments.json")
    assert read_moments(tmp_path / "moments.json", "semantic", other["config_sha256"]).mean
    with pytest.raises(UserError, match="belongs to another training than the milestone"):
        read_moments(tmp_path / "moments.json", "semantic", "another")
