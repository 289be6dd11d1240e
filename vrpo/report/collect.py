"""From an experiment's many result files to the few small ones behind figures, tables and report.

`metrics.csv`         a row for each evaluation: run, seed, step, sampler, scores, hashes of files
`training.csv`        the training histories, one below the other
`diagnostics.csv`     what alignments logged by noise level; of long trainings, means over stretches
`speed.csv`           images/s (median) and seconds of each training; by the clock, never the same
`representation.csv`  probe accuracy and CKNNA of hidden tokens; without rows if not measured
`samples.npz`         the first images of each run, of equal noise, and real images of their classes
`protocol.json`       how the scores were taken, and with which versions
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.guidance import guidance_name
from vrpo.config.runs import CHECKPOINT_PROCESS, FAMILIES
from vrpo.data.kinds import IMAGES, SAMPLES
from vrpo.data.shards import open_arrays
from vrpo.errors import UserError
from vrpo.files import atomic_output, sha256, write_text
from vrpo.plan.jobs import evaluations, represented, shown, trainings
from vrpo.plan.paths import Paths
from vrpo.report.results import CHECKSUMS, HASHES, OFFICIAL

REPRESENTATION_COLUMNS = [
    *("run", "model", "process", "alignment", "kind", "name", "seed", "step"),
    *("noise_level", "block", "quantity", "value"),
]
LOGGED = {"step": int, "loss": float}  # columns of train.csv that must be there, and their types
BY_LEVEL = {"step": int, "noise_level": float}
BY_CLOCK = {"step": int, "images_per_second": float, "seconds": float}
STRETCHES = 50  # rows of a noise level that are kept of a training's diagnostics


def collect(config: ExperimentConfig, output_folder: Path) -> None:
    """Write the collected files into `output_folder`; equal results give equal bytes.

    Raises:
        UserError: a result is missing or is not what its path says.
    """
    paths, runs = Paths.of(config), list(trainings(config))
    names = {run: _names(config, run) for run in [*config.runs, *config.checkpoints]}
    records = {key: _read_record(paths.metrics(*key), *key) for key in evaluations(config)}
    metrics = [
        _metrics_row(paths.metrics(*key), key, names[key[0]], record)
        for key, record in records.items()
    ]
    _write_csv(pd.DataFrame(metrics), output_folder / "metrics.csv")
    histories = [_history(config, run, seed, names[run]) for run, seed in runs]
    _write_csv(pd.concat(histories, ignore_index=True), output_folder / "training.csv")
    by_level = [_diagnostics(config, run, seed, names[run]) for run, seed in runs]
    logged = [rows for rows in by_level if len(rows)] or by_level[:1]
    _write_csv(pd.concat(logged, ignore_index=True), output_folder / "diagnostics.csv", "%.6g")
    speed = [_speed(config, run, seed, names[run]) for run, seed in runs]
    _write_csv(pd.DataFrame(speed), output_folder / "speed.csv")
    measured: list[dict[str, Any]] = []
    for key in represented(config):
        measured += _representation_rows(paths.representation(*key), key, names[key[0]])
    table = pd.DataFrame(measured, columns=REPRESENTATION_COLUMNS)
    _write_csv(table, output_folder / "representation.csv")
    with atomic_output(output_folder / "samples.npz") as partial, open(partial, "wb") as file:
        np.savez(file, **_grid(config))
    protocol = _protocols(records)
    if config.report.epochs_to_fid:
        images = open_arrays(paths.images, IMAGES).shape("images")[0]
        protocol["training"] = {"images": images, "batch_size": config.training.batch_size}
    protocols = json.dumps(protocol, indent=2, sort_keys=True)
    write_text(output_folder / "protocol.json", protocols + "\n")
    sums = {path.name: sha256(path) for path in sorted(output_folder.glob("[!.]*"))}
    write_text(output_folder / CHECKSUMS, json.dumps(sums, indent=1) + "\n")


def _names(config: ExperimentConfig, run: str) -> dict[str, str]:
    if run in config.checkpoints:  # of its own kind: shown beside the runs, not compared with them
        family, model = config.checkpoints[run].family, config.model_of(run).name
        process, alignment = CHECKPOINT_PROCESS[family], run
        kind = f"{OFFICIAL}{FAMILIES[family]}"
        name = kind
    else:
        alignment, model = config.runs[run].alignment, model_name(config, run)
        process, kind = config.process_of(run), config.alignments[alignment].kind
        name = config.label_of(alignment)
    names = {"run": run, "model": model, "process": process, "alignment": alignment}
    return names | {"kind": kind, "name": name}


def model_name(config: ExperimentConfig, run: str) -> str:
    """The model as papers print it, e.g. `DiT-XL/2`.

    Of several processes of one kind, all but the first are named: `DiT-XL/2 (dit-velocity)`.
    """
    process, name = config.runs[run].process, config.model_of(run).name
    kinds = {key: options.kind for key, options in config.processes.items()}
    first = next(key for key, kind in kinds.items() if kind == kinds[process])
    return name if process == first else f"{name} ({process})"


def _read_record(path: Path, run: str, seed: int, step: int, sampler: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record["run"], record["seed"], record["step"]
    except (OSError, ValueError, KeyError) as error:
        fault = f"is missing or not a record of scores ({error})"
        raise UserError(f"{path}: {fault}; run the evaluation again") from error
    if found != (run, seed, step):
        remedy = "remove it and run the evaluation again"
        raise UserError(f"{path}: holds the scores of {found}; {remedy}")
    return record


def _metrics_row(
    path: Path, key: tuple[str, int, int, str], names: dict[str, str], record: dict[str, Any]
) -> dict[str, Any]:
    _, seed, step, sampler = key
    protocol, provenance = record["protocol"], record["provenance"]
    return {
        **names,
        "seed": seed,
        "step": step,
        "sampler": sampler,
        **record["scores"],
        "images": protocol.get("images"),
        "guidance": guidance_name(protocol.get("guidance") or {}),
        "metrics_sha256": sha256(path),
        **{name: provenance.get(name) for name in HASHES.values()},
    }


def _representation_rows(
    path: Path, key: tuple[str, int, int], names: dict[str, str]
) -> Iterator[dict[str, Any]]:
    _, seed, step = key
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            (row["noise_level"], row["block"], row["probe_accuracy"], row["cknna"])
            for row in record["rows"]
        ]
    except (OSError, ValueError, KeyError) as error:
        fault = f"is missing or not a record of representations ({error})"
        raise UserError(f"{path}: {fault}; measure it again") from error
    for level, block, accuracy, alignment in rows:
        place = {"seed": seed, "step": step, "noise_level": level, "block": block}
        values = {f"cknna_{encoder}": value for encoder, value in alignment.items()}
        for quantity, value in {"probe_accuracy": accuracy, **values}.items():
            yield {**names, **place, "quantity": quantity, "value": value}


def _history(config: ExperimentConfig, run: str, seed: int, names: dict[str, str]) -> pd.DataFrame:
    history = _log(config, run, seed, "train.csv", LOGGED, dtype=str)
    # The column `alignment` of the collected file is the name of the run's alignment.
    return _named(history.rename(columns={"alignment": "alignment_loss"}), names, seed)


def _diagnostics(
    config: ExperimentConfig, run: str, seed: int, names: dict[str, str]
) -> pd.DataFrame:
    logged = _log(config, run, seed, "diagnostics.csv", BY_LEVEL)
    return _named(over_stretches(logged), names, seed)


def over_stretches(logged: pd.DataFrame, stretches: int = STRETCHES) -> pd.DataFrame:
    """Rows by step and noise level, averaged over `stretches` stretches of steps at most.

    A stretch has the name of its last step.
    """
    if len(logged):
        steps = np.array(sorted(set(logged["step"])))
        parts = np.array_split(steps, min(stretches, len(steps)))
        ends = np.array([part[-1] for part in parts])
        logged = logged.assign(step=ends[np.searchsorted(ends, logged["step"])])
    return logged.groupby(["step", "noise_level"], sort=True).mean().reset_index()


def _speed(config: ExperimentConfig, run: str, seed: int, names: dict[str, str]) -> dict[str, Any]:
    logged = _log(config, run, seed, "speed.csv", BY_CLOCK)
    return {
        **names,
        "seed": seed,
        "batch_size": config.training.batch_size,
        "images_per_second": logged["images_per_second"].median(),
        "seconds": round(logged["seconds"].sum(), 2),
    }


def _log(
    config: ExperimentConfig,
    run: str,
    seed: int,
    name: str,
    columns: dict[str, type],
    **keywords: Any,
) -> pd.DataFrame:
    """A table that a training wrote, up to the last milestone; empty if nothing was logged."""
    path = Paths.of(config).run(run, seed) / name
    try:
        if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            raise ValueError("its last line is cut off")
        # A training shorter than `log_every` has an empty train.csv and never began speed.csv.
        unlogged = not path.with_name("train.csv").stat().st_size or not path.stat().st_size
        log = pd.DataFrame(columns=list(columns)) if unlogged else pd.read_csv(path, **keywords)
        log = log[log["step"].astype(int) <= config.milestones_of(run)[-1]]
        return log.astype({} if keywords else columns).copy()
    except (OSError, ValueError, KeyError) as error:
        fault = f"the log of this training is missing or damaged ({error})"
        raise UserError(f"{path}: {fault}; train the run again") from error


def _named(log: pd.DataFrame, names: dict[str, str], seed: int) -> pd.DataFrame:
    for position, (name, value) in enumerate({**names, "seed": seed}.items()):
        log.insert(position, name, value)
    return log


def _grid(config: ExperimentConfig) -> dict[str, np.ndarray]:
    """Arrays of the grid of samples.

    `images` [R,K,H,W,3] uint8 and `labels` [R,K] of R shown runs, `real` [K,H,W,3] of the first's
    labels.
    """
    count, images, labels = config.report.grid_images, [], []
    for run, seed, step, sampler in shown(config):
        samples = open_arrays(Paths.of(config).samples(run, seed, step, sampler), SAMPLES)
        images.append(samples.rows("images", slice(0, count)))
        labels.append(samples.rows("labels", slice(0, count)))
    least = min(map(len, images))
    source = open_arrays(Paths.of(config).images, IMAGES)
    chosen = _of_classes(source.rows("labels", slice(None)), labels[0][:least])
    runs, seeds, steps, samplers = zip(*shown(config), strict=True)
    return {
        "runs": np.array(runs),
        "seeds": np.array(seeds),
        "steps": np.array(steps),
        "samplers": np.array(samplers),
        "images": np.stack([row[:least] for row in images]),
        "labels": np.stack([row[:least] for row in labels]),
        "real": source.rows("images", np.array(chosen)),
    }


def _of_classes(labels: np.ndarray, wanted: np.ndarray) -> list[int]:
    """For each wanted class an image of it, another one each time while there are any."""
    places = {label: np.flatnonzero(labels == label) for label in set(wanted.tolist())}
    missing = [label for label, found in places.items() if not len(found)]
    if missing:
        raise UserError(
            f"images: none is of class {missing[0]}, which was sampled; "
            "set data.num_classes to the number of its classes"
        )
    chosen = []
    for column, label in enumerate(wanted.tolist()):
        found, before = places[label], np.sum(wanted[:column] == label)
        chosen.append(int(found[before % len(found)]))
    return chosen


def _protocols(records: dict[tuple[str, int, int, str], dict[str, Any]]) -> dict[str, Any]:
    """Each sampler's protocol, as in its first record, and all warnings and versions."""
    samplers: dict[str, Any] = {}
    warnings: set[str] = set()
    versions: dict[str, set[str]] = {}
    for (_, _, _, sampler), record in records.items():
        protocol = dict(record["protocol"])
        warnings.update(protocol.pop("warnings", []))
        samplers.setdefault(sampler, protocol)
        for name, version in (record["provenance"].get("versions") or {}).items():
            versions.setdefault(name, set()).add(str(version))
    return {
        "samplers": samplers,
        "warnings": sorted(warnings),
        "versions": {name: sorted(found) for name, found in versions.items()},
    }


def _write_csv(frame: pd.DataFrame, path: Path, float_format: str | None = None) -> None:
    write_text(path, frame.to_csv(index=False, lineterminator="\n", float_format=float_format))
