"""Collected results as tables in memory, and means over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vrpo.config.alignments import ALIGNMENT_NAMES
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.metrics.npz import NpzFile

CHECKSUMS = ".sha256"  # beside collected files: SHA-256 of each
HASHES = {  # columns of metrics.csv that trace a score
    "weights": "milestone_sha256",
    "samples": "samples_sha256",
    "reference": "reference_sha256",
    "network": "network_sha256",
}
OFFICIAL = "official "  # how the kind of weights that were trained elsewhere begins


def read_metrics(collected: Path) -> pd.DataFrame:
    """`metrics.csv` with a column `label`: what a run is called beside the others of its model.

    Raises:
        UserError: it is missing or lacks a column.
    """
    return _labelled(collected / "metrics.csv", "step", "sampler", "fid")


def read_training(collected: Path) -> pd.DataFrame:
    """`training.csv` with a column `label`, as `read_metrics`."""
    return _labelled(collected / "training.csv", "step", "loss")


def read_representation(collected: Path) -> pd.DataFrame:
    """`representation.csv` with a column `label`, as `read_metrics`; empty if not measured."""
    return _labelled(collected / "representation.csv", "noise_level", "block", "quantity", "value")


def read_diagnostics(collected: Path) -> pd.DataFrame:
    """`diagnostics.csv` with a column `label`, as `read_metrics`."""
    return _labelled(collected / "diagnostics.csv", "step", "noise_level")


def read_speed(collected: Path) -> pd.DataFrame:
    """`speed.csv` with a column `label`, as `read_metrics`."""
    return _labelled(collected / "speed.csv", "batch_size", "images_per_second", "seconds")


def read_samples(collected: Path) -> dict[str, np.ndarray]:
    """The arrays of `samples.npz`."""
    require_whole(collected / "samples.npz")
    file = NpzFile(collected / "samples.npz")
    return {name: file.array(name) for name in file.names}


def read_protocol(collected: Path) -> dict[str, Any]:
    """The content of `protocol.json`."""
    path = collected / "protocol.json"
    require_whole(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is missing or damaged; collect the results again") from error


def main_sampler(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's first sampler, which is evaluated at every milestone.

    Without official checkpoints.
    """
    metrics = metrics[~metrics["kind"].str.startswith(OFFICIAL)]
    main = metrics.groupby("run", sort=False)["sampler"].transform("first")
    return metrics[metrics["sampler"] == main]


def last_milestone(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last milestone."""
    return metrics[metrics["step"] == metrics.groupby("run", sort=False)["step"].transform("max")]


def seeds_text(counts: Iterable[int]) -> str:
    """Seeds behind means over `counts` seeds each: `one seed`, or `mean of 1 to 3 seeds`."""
    different = set(map(int, counts))
    least, most = min(different), max(different)
    if least == most == 1:
        return "one seed"
    return f"mean of {least} seeds" if least == most else f"mean of {least} to {most} seeds"


def over_seeds(frame: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Mean, least and greatest value over seeds, and their number, in the order of the rows."""
    grouped = frame.dropna(subset=[value]).groupby(by, sort=False)[value]
    return grouped.agg(mean="mean", least="min", greatest="max", seeds="count").reset_index()


def require_whole(path: Path) -> None:
    """Compare a collected file with its checksum, if it has one.

    Raises:
        UserError: it is damaged, or was edited.
    """
    try:
        sums = json.loads((path.parent / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if path.is_file() and path.name in sums and sums[path.name] != sha256(path):
        raise UserError(
            f"{path}: is not as it was collected, so damaged or edited; collect the results again "
            "(`snakemake --cores 1 --forcerun collect -- collect`)"
        )


def read_csv(path: Path, needed: list[str]) -> pd.DataFrame:
    """A table that has the columns `needed`."""
    require_whole(path)
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is missing or empty; collect the results first") from error
    missing = [name for name in needed if name not in frame]
    if missing:
        raise UserError(f"{path}: lacks the column `{missing[0]}`; collect the results again")
    return frame


def _labelled(path: Path, *needed: str) -> pd.DataFrame:
    """A table with a `label`: the `name` where unambiguous in a model, else the config's."""
    frame = read_csv(path, ["run", "model", "alignment", "kind", "seed", *needed])
    frame["name"] = shown_names(frame)
    rivals = frame.groupby(["model", "name"])["run"].transform("nunique")
    rows = [own_label(*row) for row in zip(frame["name"], frame["alignment"], strict=True)]
    frame["label"] = np.where(rivals == 1, frame["name"], rows)
    return frame


def shown_names(frame: pd.DataFrame) -> pd.Series:
    """Name of each row's alignment; that of its kind in results without the column `name`."""
    if "name" in frame:
        return frame["name"]
    known = frame["kind"].isin(ALIGNMENT_NAMES) | frame["kind"].str.startswith(OFFICIAL)
    return frame["kind"].replace(ALIGNMENT_NAMES).where(known, frame["alignment"])


def own_label(name: str, alignment: str) -> str:
    """The config's name of an alignment whose `name` is ambiguous; `vrpo` is the full form's."""
    full = ALIGNMENT_NAMES["vrpo"]
    reduced = alignment.casefold() == full.casefold() and name != full
    return f"{name}, {alignment}" if reduced else alignment
