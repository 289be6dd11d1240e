"""Progress of an experiment's trainings, read from its files alone.

Nothing is locked or written, and no queue is asked, so this works beside jobs on any machine.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.reading import load_resolved
from vrpo.errors import UserError
from vrpo.holders import described, is_running, read_holder
from vrpo.plan.jobs import evaluations, trainings
from vrpo.plan.paths import Paths
from vrpo.plan.resolved import PLAN
from vrpo.workflow.failures import Failure, failures

LOSSES = ("loss", "denoising", "alignment")  # columns of train.csv
RATED_ROWS = 5  # last rows of speed.csv that give the rate
TAIL = 1 << 16  # bytes that are read of a table's end
START = "start one with `snakemake --cores all --configfile CONFIG`"


class SavedState(NamedTuple):
    """The newest training state."""

    step: int
    age: float
    """Seconds since it was written."""


class Training(NamedTuple):
    """Progress of one run with one seed."""

    run: str
    seed: int
    state: str
    """`done`, `running`, `running?` (its process is out of sight), `stopped` (within a milestone)
    or `waiting`."""
    step: int
    milestone: int
    """Last milestone whose weights exist; 0: none."""
    total: int
    """Steps of the last milestone of the plan."""
    rate: float | None
    """Steps a second."""
    losses: dict[str, float]
    saved: SavedState | None
    holder: str
    """Host, pid and job of the process that holds the run's lock; empty: none."""

    @property
    def left(self) -> float | None:
        """Seconds to the last milestone, of a running training."""
        if not self.rate or not self.state.startswith("running"):
            return None
        return (self.total - self.step) / self.rate


class Status(NamedTuple):
    """Progress of an experiment."""

    folder: Path
    trainings: list[Training]
    scores: int
    """Sets of scores that exist."""
    planned_scores: int
    failures: list[Failure]
    workflow: str
    """Holder of the results' lock; empty: no workflow runs."""


def results_folders(experiment: str | None, root: Path = Path("results")) -> list[Path]:
    """Results folders of `experiment`, a folder or a name below `root`; None: all below `root`.

    Raises:
        UserError: there is none.
    """
    there = sorted(path for path in root.glob("[!.]*") if path.is_dir())
    if experiment is None:
        if not there:
            raise UserError(f"{root}: holds no results; {START}, or name a results folder")
        return [path for path in there if (path / PLAN).is_file()] or there
    for folder in (root / experiment, Path(experiment)):
        if folder.is_dir():
            return [folder]
    known = ", ".join(path.name for path in there) or "none"
    raise UserError(
        f"{experiment}: neither {root / experiment} nor {experiment} is a folder; "
        f"give one of the experiments in {root} ({known}) or a results folder"
    )


def status_of(folder: Path) -> Status:
    """The status of the experiment whose results are in `folder`.

    Raises:
        UserError: no workflow was started there, or one of another version.
    """
    config = _planned(folder)
    paths, now = replace(Paths.of(config), folder=folder), time.time()
    scored = [paths.metrics(*key).is_file() for key in evaluations(config)]
    return Status(
        folder,
        [_training(paths, config, *key, now) for key in trainings(config)],
        sum(scored),
        len(scored),
        failures(folder / "logs", now),
        _holder(folder / ".lock")[0],
    )


def _planned(folder: Path) -> ExperimentConfig:
    plan = folder / PLAN
    if not plan.is_file():
        if not any(folder.iterdir()):
            raise UserError(f"{folder}: is empty; {START}")
        raise UserError(
            f"{folder}: has no {PLAN}, so it is of another version of vrpo or no results folder; "
            f"use that version, or {START}"
        )
    try:
        return load_resolved(ExperimentConfig, plan)
    except UserError as error:
        reason = str(error).splitlines()[0].removeprefix(f"{plan}: ")
        raise UserError(
            f"{plan}: cannot be read, it may be of another version of vrpo ({reason}); "
            "use that version, or start the workflow again"
        ) from error


def _training(paths: Paths, config: ExperimentConfig, run: str, seed: int, now: float) -> Training:
    folder, steps = paths.run(run, seed), config.milestones_of(run)
    milestone = max((s for s in steps if paths.milestone(run, seed, s).is_file()), default=0)
    saved = _newest_state(folder / "state", now)
    holder, running = _holder(folder / "state" / "lock")
    rows = list(_last_rows(folder / "train.csv", 1))
    losses = rows[-1] if rows else {}
    step = int(losses.get("step", 0))
    if running:
        state = "running"
    elif milestone == steps[-1]:
        state, holder, step = "done", "", milestone
    elif holder:
        state = "running?"
    else:
        step = max(step, milestone)
        state = "stopped" if max(step, saved.step if saved else 0) > milestone else "waiting"
    return Training(
        run,
        seed,
        state,
        step,
        milestone,
        steps[-1],
        _rate(folder / "speed.csv", config.training.batch_size),
        {name: losses[name] for name in LOSSES if name in losses},
        saved,
        holder,
    )


def _holder(lock: Path) -> tuple[str, bool]:
    """Who may hold a lock, and whether it is known to; a holder that is gone is none."""
    record = read_holder(lock)
    if not record and not (lock.is_file() and lock.stat().st_size):
        return "", False
    running = is_running(record)
    return "" if running is False else described(record), running is True


def _newest_state(folder: Path, now: float) -> SavedState | None:
    """The state that was written last, of any config of the run."""
    found = []
    for path in folder.glob("*/step*.pt"):
        try:
            changed = path.stat().st_mtime
        except FileNotFoundError:  # the training removed it
            continue
        if match := re.fullmatch(r"step(\d+)\.pt", path.name):
            found.append((changed, int(match[1])))
    if not found:
        return None
    changed, step = max(found)
    return SavedState(step, max(0.0, now - changed))


def _rate(path: Path, batch_size: int) -> float | None:
    """Steps a second over the last rows of a speed.csv."""
    rows = [row for row in _last_rows(path, RATED_ROWS) if row.keys() >= {"seconds", "step"}]
    seconds = sum(row["seconds"] for row in rows)
    images = sum(row.get("images_per_second", 0.0) * row["seconds"] for row in rows)
    return images / seconds / batch_size if seconds else None


def _last_rows(path: Path, count: int) -> Iterator[dict[str, float]]:
    """The last whole rows of a table of numbers; none where it is missing, cut or damaged."""
    try:
        with open(path, "rb") as file:
            head = file.readline()
            start = file.tell()
            size = file.seek(0, 2)
            file.seek(max(start, size - TAIL))
            tail = file.read()
    except OSError:
        return
    names = head.decode(errors="replace").strip().split(",")
    whole = tail[: tail.rfind(b"\n") + 1].decode(errors="replace").splitlines()
    for line in whole[-count:]:
        try:
            yield dict(zip(names, map(float, line.split(",")), strict=True))
        except ValueError:
            continue
