"""The method benchmark's small results, copied where they can be committed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from vrpo.config.experiment import ExperimentConfig
from vrpo.errors import UserError
from vrpo.files import atomic_output, write_text
from vrpo.machine import processor
from vrpo.plan.paths import Paths
from vrpo.reporting.diagnostics import moments
from vrpo.reporting.results import read_protocol, read_speed

ELSEWHERE = ("results", "resources")  # options that say where and with what a job runs, not what it computes


def write_snapshot(config: ExperimentConfig, output_folder: Path) -> None:
    """Copy the benchmark's README.md, tables (.md, .csv), figures (.png) and scores (metrics.csv) to `output_folder`, with their provenance.

    Of what the figures `diagnostics_<process>` show, the numbers at the moments that they draw by noise level are copied, too.

    provenance.json holds what the numbers are a function of; machine.json where and how long it took, the one file that a repetition changes.

    Raises:
        UserError: the config has no `methods`, or the benchmark has not run to its end.
    """
    if config.methods is None:
        raise UserError("methods: this config has no method benchmark; add config/methods.yaml to --configfile")
    source, collected = Paths.of(config).benchmark, Paths.of(config).collected
    names = [
        "README.md",
        *(f"{name}.{kind}" for name in config.methods.tables() for kind in ("md", "csv")),
        *(f"{name}.png" for name in config.methods.figures()),
    ]
    copied = {**{name: source / name for name in names}, "metrics.csv": collected / "metrics.csv"}
    diagnosed = [f"{name}.csv" for name in config.methods.figures() if name.startswith("diagnostics_")]
    for path in [*copied.values(), *(source / name for name in diagnosed)]:
        if not path.is_file():
            raise UserError(f"{path}: is missing; run the benchmark to its end (`snakemake methods`)")
    for name, path in copied.items():
        with atomic_output(output_folder / name) as partial:
            shutil.copyfile(path, partial)
    for name in diagnosed:
        data = pd.read_csv(source / name)
        write_text(output_folder / name, data[data["step"].isin(moments(data["step"]))].to_csv(index=False))
    _write_json(output_folder / "provenance.json", provenance(config))
    _write_json(output_folder / "machine.json", machine(config))


def provenance(config: ExperimentConfig) -> dict[str, Any]:
    """Config, seeds and versions."""
    content = {name: value for name, value in config.model_dump(mode="json").items() if name not in ELSEWHERE}
    return {
        "experiment": config.experiment,
        "config_sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        "methods": content["methods"],
        "milestones": config.milestones,
        "versions": read_protocol(Paths.of(config).collected)["versions"],
    }


def machine(config: ExperimentConfig) -> dict[str, Any]:
    """Where this snapshot was taken, and the time that the trainings took."""
    speed = read_speed(Paths.of(config).collected)
    files = [path.stat().st_mtime for path in (Paths.of(config).folder / "runs").rglob("step*.safetensors")]
    times = [datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds") for moment in (min(files), max(files))] if files else None
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "trainings": len(speed),
        "training_seconds": round(float(speed["seconds"].sum())),
        "images_per_second": {run: float(rows.median()) for run, rows in speed.groupby("run", sort=False)["images_per_second"]},
        "first_and_last_milestone": times,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
