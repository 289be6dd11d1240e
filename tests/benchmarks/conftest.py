"""Small networks on data of the papers' shapes."""

from pathlib import Path

import pytest
import torch

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.reading import read_experiment

ROOT = Path(__file__).parents[2]
CONFIGS = [ROOT / "config/imagenet256.yaml", Path(__file__).with_name("small.yaml")]


@pytest.fixture(scope="session")
def configs() -> list[Path]:
    """Config files of `small`."""
    return CONFIGS


@pytest.fixture(scope="session")
def small(configs: list[Path]) -> ExperimentConfig:
    """Runs none, repa, vrpo, perceptual and dit of two narrow blocks."""
    return read_experiment(configs)


@pytest.fixture
def cpu() -> torch.device:
    """The device of these tests."""
    return torch.device("cpu")
