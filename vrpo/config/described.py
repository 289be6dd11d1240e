"""Description of an experiment for reports, used unless the config gives its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from vrpo.config.data import DataOptions
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.report import ReportOptions
from vrpo.config.scoring import ADM_PROTOCOL

PROCESS_NAMES = {"interpolant": "SiT", "ddpm": "DiT"}
PROTOCOL = ("split_size", "neighbours", "distances")  # of ADM's evaluator


def described_report(config: ExperimentConfig) -> ReportOptions:
    """The options `report` with `title` and `metric_space` where they are null."""
    report = config.report
    words = {"title": title(config), "metric_space": metric_space(config)}
    missing = {name: text for name, text in words.items() if getattr(report, name) is None}
    return report.model_copy(update=missing)


def title(config: ExperimentConfig) -> str:
    """The headline, e.g. `None, REPA and VRPO on SiT and DiT, digits 32x32`."""
    compared = _joined(config.label_of(run.alignment) for run in config.runs.values())
    processes = _joined(PROCESS_NAMES[config.process_of(run)] for run in config.runs)
    compared = re.sub("^none", "None", compared)
    return f"{compared} on {processes}, {images(config.data)}"


def metric_space(config: ExperimentConfig) -> str:
    """The feature space of the scores; the images come first, up to a comma."""
    evaluation = config.evaluation
    if evaluation.network == "trained":
        network = f"a classifier ({evaluation.trained.architecture}) fitted on these images"
        features = f"{images(config.data)}, features of {network}"
        return f"{features}; not comparable with published numbers"
    parts = [images(config.data), "Inception features"]
    if all(getattr(evaluation, name) == getattr(ADM_PROTOCOL, name) for name in PROTOCOL):
        parts.append("ADM's protocol")
    if len(counts := {sampler.images for sampler in config.samplers.values()}) == 1:
        parts.append(f"{counts.pop():,} images")
    if evaluation.reference:
        parts.append(f"against {Path(evaluation.reference).name}")
    return ", ".join(parts)


def images(data: DataOptions) -> str:
    """The training images: `digits 32x32`, or the end of their path, `imagenet/train 256x256`."""
    names = {"digits": "digits", "ilsvrc": "ImageNet"}
    root = Path(data.root or "")
    place = "/".join(root.parts[1:][-2:] if root.is_absolute() else root.parts[-2:])
    return f"{names.get(data.source, place.replace(',', ' '))} {data.resolution}x{data.resolution}"


def _joined(words: Iterable[str]) -> str:
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} and {last}" if others else last
