"""Resolved config files: for each stage exactly what it depends on, written only when the content changes.

Rules take these files as inputs, so that changing a plot's title retrains nothing and changing an encoder's
training redoes what depends on it, whatever else the experiment's config holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel

from vrpo.config.base import Options
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.messages import validate
from vrpo.config.reading import read_yaml
from vrpo.files import write_text_if_changed

Model = TypeVar("Model", bound=BaseModel)


def resolved_files(config: ExperimentConfig) -> dict[str, Options]:
    """Every resolved config of the experiment, by path relative to `config.folder`."""
    files: dict[str, Options] = {
        "config/images.yaml": config.data,
        "config/tokenizer.yaml": config.tokenizer,
        "config/critic.yaml": config.critic,
        "config/evaluation.yaml": config.evaluation,
        "config/experiment.yaml": config,
        "config/collect.yaml": config.collection(),
        "config/report.yaml": config.report,
    }
    if config.methods:
        files["config/methods.yaml"] = config.methods
    if config.representation:
        files["config/representation.yaml"] = config.representation
    for name, encoder in config.encoders.items():
        files[f"config/encoders/{name}.yaml"] = encoder
    for name, sampler in config.samplers.items():
        files[f"config/samplers/{name}.yaml"] = sampler
    for run in config.runs:
        for seed in config.seeds_of(run):
            files[f"runs/{run}/seed{seed}/config.yaml"] = config.run_config(run, seed)
    return files


def write_resolved(config: ExperimentConfig) -> list[Path]:
    """Write the resolved configs whose content changed; returns their paths."""
    changed = []
    for name, options in resolved_files(config).items():
        path = config.folder / name
        text = yaml.safe_dump(options.model_dump(mode="json"), sort_keys=False)
        if write_text_if_changed(path, text):
            changed.append(path)
    return changed


def load_resolved(model: type[Model], path: Path | str) -> Model:
    """Read one resolved config as `model`.

    Raises:
        UserError: the file is missing or does not fit.
    """
    return validate(model, read_yaml(path), str(path))
