"""Every option of the pipeline, typed; nothing here imports torch."""

from vrpo.config.base import Options, option
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.reading import load_experiment, load_resolved, merge_configs, parse_experiment
from vrpo.config.resolved import RunConfig

__all__ = [
    "ExperimentConfig",
    "Options",
    "RunConfig",
    "load_experiment",
    "load_resolved",
    "merge_configs",
    "option",
    "parse_experiment",
]
