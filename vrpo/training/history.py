"""`train.csv`, `diagnostics.csv` and `speed.csv`: what happened in a training, row by row."""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path

from vrpo.files import write_text
from vrpo.tracking.trackers import Row, Trackers

Rows = list[dict[str, str]]
TABLES = ("train", "diagnostics")


class History:
    """The tables of a run.

    train.csv (losses and rewards) and diagnostics.csv (the same by noise level) are a function of
    (config, seed, step): their rows are part of the training state, and a resume writes them anew,
    so that every repetition produces identical files. speed.csv holds wall-clock rates, which
    differ between repetitions; rows are only added to it. Trackers get the same values.
    """

    def __init__(
        self,
        run_folder: Path,
        batch_size: int,
        step: int,
        tables: dict[str, Rows],
        trackers: Trackers | None = None,
    ) -> None:
        """Continue from `step`, whose state held `tables`, a list of rows for each of `TABLES`."""
        self.folder, self.speed = run_folder, run_folder / "speed.csv"
        self.trackers = trackers or Trackers()
        self.batch_size, self.step, self.tables = batch_size, step, tables
        self.time = time.monotonic()
        for name, rows in tables.items():
            write_text(run_folder / f"{name}.csv", _text(rows))

    def append(
        self, step: int, metrics: dict[str, float], by_noise_level: dict[str, list[float]]
    ) -> float:
        """Add the rows of `step`; returns the rate since the last ones, in images/s.

        Args:
            step: optimiser steps done.
            metrics: means over the steps since the last rows.
            by_noise_level: quantities in equal bins over the noise level; NaN for empty bins.
        """
        now = time.monotonic()
        seconds = now - self.time
        rate = (step - self.step) * self.batch_size / max(seconds, 1e-9)
        texts = {name: f"{value:.8g}" for name, value in metrics.items()}
        new = {
            "train": [{"step": str(step), **texts}],
            "diagnostics": _rows_by_noise_level(step, by_noise_level),
        }
        for name, rows in new.items():
            self._add(name, rows)
        (row,) = tracked_rows(new)
        self.trackers.scalars(step, {**row.values, "speed/images_per_second": rate})
        speed = {"step": str(step), "images_per_second": f"{rate:.1f}", "seconds": f"{seconds:.2f}"}
        with open(self.speed, "a", encoding="utf-8") as file:
            file.write(_text([speed], header=file.tell() == 0))
        self.step, self.time = step, now
        return rate

    def leave_out(self, seconds: float) -> None:
        """Do not count `seconds` of other work in the next rate."""
        self.time += seconds

    def _add(self, name: str, rows: Rows) -> None:
        header = not self.tables[name]
        self.tables[name] += rows
        with open(self.folder / f"{name}.csv", "a", encoding="utf-8") as file:
            file.write(_text(rows, header))


def tracked_rows(tables: dict[str, Rows]) -> list[Row]:
    """The values of the tables as trackers name them, step by step."""
    values = {
        int(row["step"]): {f"train/{name}": float(row[name]) for name in row if name != "step"}
        for row in tables["train"]
    }
    for row in tables["diagnostics"]:
        step, level = int(row["step"]), row["noise_level"]
        for name, text in row.items():
            if text and name not in ("step", "noise_level"):
                values[step][f"train_by_noise_level/{name}/{level}"] = float(text)
    return [Row(step, named) for step, named in values.items()]


def _rows_by_noise_level(step: int, quantities: dict[str, list[float]]) -> Rows:
    """A row for each bin that is not empty, with the noise level at its middle."""
    rows = []
    bins = max(map(len, quantities.values()), default=0)
    for index in range(bins):
        values = {
            name: "" if math.isnan(means[index]) else f"{means[index]:.8g}"
            for name, means in quantities.items()
        }
        if any(values.values()):
            rows.append({"step": str(step), "noise_level": f"{(index + 0.5) / bins:.8g}", **values})
    return rows


def _text(rows: Rows, header: bool = True) -> str:
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
