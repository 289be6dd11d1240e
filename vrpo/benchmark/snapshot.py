"""The method benchmark's small results, copied where they can be committed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from vrpo.benchmark.numbers import Benchmark
from vrpo.benchmark.page import write_entries
from vrpo.config.benchmark import BenchmarkOptions
from vrpo.config.described import described_report
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.report import ReportOptions
from vrpo.errors import UserError
from vrpo.files import atomic_output, write_text
from vrpo.plan.paths import Paths
from vrpo.report.catalogue import Entry, benchmark_entries
from vrpo.report.diagnostics import moments
from vrpo.report.results import read_protocol, read_speed
from vrpo.runtime.machine import processor

COMMITTED = {"table": (".md", ".csv"), "figure": (".png",)}
ELSEWHERE = {"results", "resources"}  # options without effect on what is computed


def write_snapshot(config: ExperimentConfig, output_folder: Path) -> None:
    """Copy the benchmark's small results to `output_folder`, with their provenance.

    These are README.md, tables (.md, .csv), figures (.png), scores (metrics.csv) and, of the
    diagnostics by noise level, the moments that their figures show. A repetition changes only
    machine.json and what depends on measured times.

    Raises:
        UserError: the config has no `benchmark`, nothing is chosen in it, or it has not run to its
            end.
    """
    if config.benchmark is None:
        raise UserError(
            "benchmark: this config has no method benchmark; "
            "add config/benchmark.yaml to --configfile"
        )
    if config.benchmark.chosen is None:
        raise UserError(
            "benchmark.chosen: is not set, so there is no comparison to copy; "
            "set it to what the rule gave (docs/benchmark.md)"
        )
    paths, entries = Paths.of(config), benchmark_entries(config.benchmark)
    source = paths.benchmark
    copied = {name: source / name for name in ["README.md", *snapshot_files(entries)]}
    copied["metrics.csv"] = paths.collected / "metrics.csv"
    diagnosed = [f"{entry.name}.csv" for entry in entries if "diagnostics.csv" in entry.needs]
    for path in [*copied.values(), *(source / name for name in diagnosed)]:
        if not path.is_file():
            remedy = "run the benchmark to its end (`snakemake benchmark`)"
            raise UserError(f"{path}: is missing; {remedy}")
    for name, path in copied.items():
        _copy(path, output_folder / name)
    for name in diagnosed:
        data = pd.read_csv(source / name)
        data = data[data["step"].isin(moments(data["step"]))]
        write_text(output_folder / name, data.to_csv(index=False))
    _write_json(output_folder / "provenance.json", provenance(config))
    _write_json(output_folder / "machine.json", machine(config))


def redraw_snapshot(folder: Path) -> None:
    """Compute a snapshot's tables, verdict and figures of scores again, from its own CSVs.

    Figures that need more than a snapshot holds (trainings by the clock or by noise level) stay.

    Raises:
        UserError: a file of the snapshot is missing or damaged.
    """
    path = folder / "provenance.json"
    try:
        made_from = json.loads(path.read_text(encoding="utf-8"))
        options = BenchmarkOptions.model_validate(made_from["benchmark"])
        report = ReportOptions.model_validate(made_from["report"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: missing or not a snapshot's ({error}); restore it") from error
    held = {"figure": {"metrics.csv"}, "table": {"metrics.csv", "speed.csv"}}  # or wall_time.csv
    entries = benchmark_entries(options)
    entries = [entry for entry in entries if held[entry.kind].issuperset(entry.needs)]
    with TemporaryDirectory() as drawn:
        write_entries(Benchmark(options, report, folder), entries, Path(drawn))
        for name in ["README.md", *snapshot_files(entries)]:
            _copy(Path(drawn, name), folder / name)


def snapshot_files(entries: Iterable[Entry]) -> list[str]:
    """Names of the files of `entries` that are committed."""
    files = [(name, COMMITTED[entry.kind]) for entry in entries for name in entry.files]
    return [name for name, committed in files if name.endswith(committed)]


def provenance(config: ExperimentConfig) -> dict[str, Any]:
    """Config, seeds and versions."""
    content = config.model_dump(mode="json", exclude=ELSEWHERE)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {
        "experiment": config.experiment,
        "config_sha256": digest,
        "benchmark": content["benchmark"],
        "report": described_report(config).model_dump(include={"title", "metric_space"}),
        "milestones": config.milestones,
        "versions": read_protocol(Paths.of(config).collected)["versions"],
    }


def machine(config: ExperimentConfig) -> dict[str, Any]:
    """Where this snapshot was taken, and the time that the trainings took."""
    paths = Paths.of(config)
    speed = read_speed(paths.collected)
    rates = speed.groupby("run", sort=False)["images_per_second"].median()
    milestones = (paths.folder / "runs").rglob("step*.safetensors")
    written = sorted(path.stat().st_mtime for path in milestones)
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "trainings": len(speed),
        "training_seconds": round(float(speed["seconds"].sum())),
        "images_per_second": rates.to_dict(),
        "first_and_last_milestone": [_utc(written[0]), _utc(written[-1])] if written else None,
    }


def _utc(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _copy(path: Path, output: Path) -> None:
    with atomic_output(output) as partial:
        shutil.copyfile(path, partial)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
