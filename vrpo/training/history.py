"""`train.csv` and `speed.csv`: what happened in a training, row by row."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path

from vrpo.files import write_text


class History:
    """The two tables of a run.

    train.csv holds what is a function of (config, seed, step): its rows are part of the training state, and a resume
    writes them anew, so that every repetition ends in the same bytes. speed.csv holds wall-clock rates, which never are
    the same; rows are only ever added to it.
    """

    def __init__(self, run_folder: Path, batch_size: int, step: int, rows: list[dict[str, str]]) -> None:
        """Go on from `step`, whose state held `rows`."""
        self.train, self.speed = run_folder / "train.csv", run_folder / "speed.csv"
        self.batch_size, self.step, self.time, self.rows = batch_size, step, time.monotonic(), rows
        write_text(self.train, _text(rows))

    def append(self, step: int, metrics: dict[str, float]) -> float:
        """Add the rows of `step`; returns the rate since the last ones, in images/s."""
        now = time.monotonic()
        seconds = now - self.time
        rate = (step - self.step) * self.batch_size / max(seconds, 1e-9)
        self.rows.append({"step": str(step), **{name: f"{value:.8g}" for name, value in metrics.items()}})
        with open(self.train, "a", encoding="utf-8") as file:
            file.write(_text(self.rows[-1:], header=len(self.rows) == 1))
        speed = {"step": str(step), "images_per_second": f"{rate:.1f}", "seconds": f"{seconds:.2f}"}
        with open(self.speed, "a", encoding="utf-8") as file:
            file.write(_text([speed], header=file.tell() == 0))
        self.step, self.time = step, now
        return rate


def _text(rows: list[dict[str, str]], header: bool = True) -> str:
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
