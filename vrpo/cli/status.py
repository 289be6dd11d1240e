"""The command `status`: progress of an experiment as a table."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from vrpo.errors import UserError

if TYPE_CHECKING:
    from vrpo.workflow.status import Status, Training

app = typer.Typer()
SECONDS = 5  # between two readings with --watch
UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


@app.command("status", rich_help_panel="Experiment")
def status(
    experiment: Annotated[
        str | None,
        typer.Argument(
            help="name of an experiment below results/, or a results folder; default: all"
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help=f"show it anew every {SECONDS} seconds, until Ctrl-C")
    ] = False,
) -> None:
    """Show each training's progress, rate, losses, saved state and process, and failed jobs."""
    clear = "\x1b[H\x1b[2J" if watch and sys.stdout.isatty() else ""
    try:
        while True:
            text, error = _shown(experiment)
            typer.echo(f"{clear}{text}", nl=bool(text))
            if error:
                raise error
            if not watch:
                return
            time.sleep(SECONDS)
    except KeyboardInterrupt:
        return


def _shown(experiment: str | None) -> tuple[str, UserError | None]:
    """The tables of the experiments, and the error of the first that cannot be read."""
    from vrpo.workflow.status import results_folders, status_of

    texts, error = [], None
    for folder in results_folders(experiment):
        try:
            texts.append(described(status_of(folder)))
        except UserError as failed:
            error = error or failed
    return "\n\n".join(texts), error


def described(status: Status) -> str:
    """A summary, the table of trainings and the failed jobs, as lines."""
    states = [training.state for training in status.trainings]
    counts = [
        f"{sum(state.startswith(name) for state in states)} {name}"
        for name in ("done", "running", "stopped", "waiting")
        if any(state.startswith(name) for state in states)
    ]
    workflow = f"workflow on {status.workflow}" if status.workflow else "no workflow runs"
    lines = [
        f"{status.folder}: {len(states)} trainings ({', '.join(counts) or 'none'}), "
        f"{status.scores} of {status.planned_scores} scores; {workflow}",
        *_table(status.trainings),
    ]
    if "running?" in states:
        lines.append("running?: its process is on another machine and cannot be seen from here")
    for failure in status.failures:
        lines.append(f"failed {duration(failure.age)} ago: {failure.log}")
        lines.append(f"  {failure.error}")
    return "\n".join(lines)


def _table(trainings: list[Training]) -> list[str]:
    """Aligned lines, one a training, below their header."""
    losses = list(dict.fromkeys(name for training in trainings for name in training.losses))
    header = ["run", "seed", "state", "step", "milestone", "steps/s", "left", *losses, "saved at"]
    rows = [[*header, "holder"]]
    for one in trainings:
        saved = f"{one.saved.step:,} ({duration(one.saved.age)} ago)" if one.saved else "-"
        rows.append(
            [
                one.run,
                str(one.seed),
                one.state,
                f"{one.step:,}/{one.total:,}",
                f"{one.milestone:,}" if one.milestone else "-",
                f"{one.rate:.3g}" if one.rate else "-",
                "-" if one.left is None else duration(one.left),
                *(f"{one.losses[name]:.4g}" if name in one.losses else "-" for name in losses),
                saved,
                one.holder or "-",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_the_left = {0, 2, len(widths) - 1}
    return [
        "  ".join(
            cell.ljust(width) if place in to_the_left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def duration(seconds: float) -> str:
    """Seconds in the two largest units, such as `2 h 5 min`."""
    rest, parts = round(seconds), []
    for unit, size in UNITS:
        count, rest = divmod(rest, size)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 ")) or "0 s"
