"""Synthetic data and critics: shapes and types of the config, read as real ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.synthetic import write_critics, write_training_data
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.reading import read_experiment
from vrpo.models.critic import load_critic


def test_shapes_are_the_papers(small: ExperimentConfig, tmp_path: Path) -> None:
    data = write_training_data(small, ["dinov2-b", "dinov2-b"], tmp_path, 8)
    assert (data.count, data.latent_shape) == (8, (4, 32, 32))
    assert data.feature_shapes == {"dinov2-b": (256, 768)}
    (critic,) = write_critics(small, data, tmp_path).values()
    assert load_critic(critic, "cpu").description["width"] == small.critic.width


@pytest.mark.parametrize("storage", ["int8", "float8", "float16"])
def test_tokens_are_stored_as_the_config_says(storage: str, configs: list, tmp_path: Path) -> None:
    settings = [f"encoders.dinov2-b.storage={storage}", "tokenizer.storage=float32"]
    data = write_training_data(read_experiment(configs, settings), ["dinov2-b"], tmp_path, 4)
    assert data.latents.dtype("mean") == np.float32
    tokens = data.gather(np.arange(4)).tokens["dinov2-b"]
    assert tokens.isfinite().all() and 1 < tokens.std() < 2
