"""`python -m vrpo STAGE ...`: one command a stage; the workflow's rules call these, and so can a person.

Stages are imported when called, so that figures need no torch and `--help` is quick.
"""

from __future__ import annotations

import logging
import os
import sys

import typer
import yaml

from vrpo.cli import bench, prepare, results, runs, scores
from vrpo.errors import InterruptionError, UserError
from vrpo.restore import inputs_of, note_result, take_planned

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for commands in (prepare, runs, scores, results):
    app.add_typer(commands.app)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run a command; a `UserError` is printed as its line, with exit status 2, an interrupted training exits with 75."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        arguments = take_planned(sys.argv[1:])
        made_from = _inputs_of(arguments)
        try:
            app(arguments)
        except SystemExit as ended:  # how a command always ends
            if not ended.code:
                note_result(arguments, made_from)
            raise
    except UserError as error:
        sys.exit(_fail(f"vrpo: error: {error}", 2))
    except InterruptionError as error:
        sys.exit(_fail(f"vrpo: {error}", 75))  # EX_TEMPFAIL: the same command goes on


def _inputs_of(arguments: list[str]) -> dict[str, str]:
    """What the result will have been made from, in the one process that notes it; a missing input is the command's to tell."""
    if os.environ.get("RANK", "0") != "0":
        return {}
    try:
        return inputs_of(arguments)
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _fail(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
