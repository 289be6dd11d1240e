"""`vrpo STAGE ...`: one command for each stage, for the workflow's rules and for people.

Stages are imported when called, so that figures need no torch and `--help` is quick.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
import yaml

from vrpo.cli import machine, prepare, results, runs, scores
from vrpo.errors import BAD_INPUT, INTERRUPTED, PREFIX, InterruptionError, UserError
from vrpo.runtime.ranks import is_first, report_error, set_up_logging
from vrpo.workflow.restore import inputs_of, note_result

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
for commands in (prepare, runs, scores, results, machine):
    app.add_typer(commands.app)


def main() -> None:
    """Run a command; its errors are shown as `show_user_errors` does."""
    with show_user_errors():
        arguments = sys.argv[1:]
        refuse_empty(arguments)
        made_from = _inputs_of(arguments)
        try:
            app(arguments, prog_name="vrpo")
        except SystemExit as ended:  # how a command always ends
            if not ended.code:
                note_result(arguments, made_from)
            raise


@contextmanager
def show_user_errors() -> Iterator[None]:
    """Print a `UserError` as its line, with exit status 2; an interruption exits with 75."""
    set_up_logging()
    try:
        yield
    except UserError as error:
        sys.exit(_fail(f"{PREFIX}{error}", BAD_INPUT))
    except InterruptionError as error:
        sys.exit(_fail(f"vrpo: {error}", INTERRUPTED))


def refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse empty arguments (`--output ''`, `--output=`); as a path, one is the current folder.

    Raises:
        UserError: one is empty; names its option, or the argument that it follows.
    """
    for place, argument in enumerate(arguments):
        if argument.strip() and not re.fullmatch("--[a-z-]+= *", argument):
            continue
        name, before = argument.strip().removesuffix("="), arguments[place - 1] if place else "vrpo"
        name = name or (before if before.startswith("--") else f"argument after `{before}`")
        raise UserError(f"{name}: is empty; give a path or value (is a shell variable unset?)")


def _inputs_of(arguments: list[str]) -> dict[str, str]:
    """Inputs of the result, for the first rank; the command itself reports missing ones."""
    if not is_first():
        return {}
    try:
        return inputs_of(arguments)
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _fail(message: str, status: int) -> int:
    if is_first():
        print(message, file=sys.stderr)
    report_error(message, status)
    return status
