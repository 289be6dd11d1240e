"""The report's section "How this was made": configs, seeds, versions and hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from vrpo import __version__
from vrpo.plan.paths import Paths
from vrpo.report.catalogue import COLLECTED
from vrpo.report.results import CHECKSUMS, HASHES, OFFICIAL

BY_CLOCK = "speed.csv"  # differs in every repetition, which would change the report
SHOWN_DIGITS = 12  # of a hash


def making(folder: Path, metrics: pd.DataFrame, protocol: dict[str, Any]) -> dict[str, Any]:
    """Contents of the section. Links are relative to the report, which is in `folder`.

    Args:
        folder: results of the experiment.
        metrics: `read_metrics`.
        protocol: `read_protocol`.
    """
    paths = Paths(folder)
    experiment = paths.config("experiment")
    versions = {
        name: " and ".join(found) for name, found in protocol["versions"].items() if name != "vrpo"
    }
    return {
        "facts": {
            "seeds": ", ".join(map(str, sorted(set(metrics["seed"])))),
            "runs": f"{metrics['run'].nunique()}, evaluated {len(metrics)} times",
            "report by": f"vrpo {__version__}",
            "evaluated by": ", ".join(f"{name} {found}" for name, found in versions.items()),
        },
        "experiment": experiment.read_text(encoding="utf-8") if experiment.is_file() else "",
        "stages": {name: _link(folder, paths.config(name)) for name in _stages(metrics["sampler"])},
        "trainings": _trainings(paths, metrics),
        "files": _sums(paths.collected),
        "traces": _traces(metrics),
    }


def _stages(samplers: pd.Series) -> list[str]:
    """Resolved configs that every experiment has."""
    names = [f"samplers/{name}" for name in dict.fromkeys(samplers)]
    return ["experiment", "images", "tokenizer", *names, "evaluation", "report"]


def _trainings(paths: Paths, metrics: pd.DataFrame) -> dict[str, dict[int, str]]:
    """{run: {seed: link to its config}}, without weights that were trained elsewhere."""
    ours = metrics[~metrics["kind"].str.startswith(OFFICIAL)]
    seeds = ours.groupby("run", sort=False)["seed"].unique()
    return {
        run: {int(seed): _link(paths.folder, paths.run_config(run, seed)) for seed in found}
        for run, found in seeds.items()
    }


def _link(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _sums(collected: Path) -> dict[str, str]:
    """SHA-256 of the collected files; empty without their checksums."""
    try:
        sums = json.loads((collected / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: sums[name] for name in COLLECTED if name in sums and name != BY_CLOCK}


def _traces(metrics: pd.DataFrame) -> list[dict[str, str]]:
    """For each evaluation, the first digits of the hashes that trace its scores."""
    hashes = {"scores": "metrics_sha256", **HASHES}
    traces = []
    for row in metrics.to_dict("records"):
        result = f"{row['run']}, seed {row['seed']}, step {row['step']:,}, {row['sampler']}"
        found = {name: row.get(column) for name, column in hashes.items()}
        digits = {
            name: "" if pd.isna(value) else value[:SHOWN_DIGITS] for name, value in found.items()
        }
        traces.append({"result": result, **digits})
    return traces
