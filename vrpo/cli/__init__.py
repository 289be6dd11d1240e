"""`vrpo STAGE ...`: one command for each stage, for the workflow's rules and for people.

Stages are imported when called, so that figures need no torch and `--help` is quick.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
import yaml

from vrpo import __version__
from vrpo.cli import checkpoints, experiment, guidance, prepare, results, runs, scores, status
from vrpo.cli.arguments import announce
from vrpo.errors import BAD_INPUT, INTERRUPTED, PREFIX, InterruptionError, UserError
from vrpo.runtime.ranks import is_first, report_error, set_up_logging
from vrpo.workflow.logs import release_log

HELP = """Representation alignment for diffusion transformers: one command for each stage.

`vrpo --gpus N STAGE ...` runs a stage on N GPUs, `vrpo --nodes M --gpus N train ...` in a SLURM job
on N GPUs of each of M nodes.
"""
BATCHES = {
    "fit-tokenizer": "tokenizer.training.batch_size",
    "fit-classifier": "<network>.training.batch_size",
    "fit-critic": "critic.training.batch_size",
    "encode-latents": "tokenizer.batch_size",
    "encode-features": "encoders.<name>.batch_size",
    "sample": "samplers.<name>.batch_size",
    "reference": "evaluation.batch_size",
    "evaluate": "evaluation.batch_size",
    "representation": "representation.batch_size",
}
"""Option that a command's memory depends on, by command."""
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=HELP,
    result_callback=lambda written, **_: announce(written),
)
for commands in (status, experiment, prepare, runs, guidance, scores, results, checkpoints):
    app.add_typer(commands.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vrpo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="the version")
    ] = False,
) -> None:
    """Options of `vrpo` itself; the text of `--help` is `HELP`."""


def main() -> None:
    """Run a command; its errors are shown as `show_user_errors` does."""
    with show_user_errors():
        arguments = sys.argv[1:]
        refuse_empty(arguments)
        made_from = _inputs_of(arguments)
        try:
            with _enough_memory(arguments):
                app(arguments, prog_name="vrpo")
        except SystemExit as ended:  # how a command always ends
            if made_from and not ended.code:
                from vrpo.workflow.restore import note_result

                note_result(arguments, made_from)
            if not ended.code:
                release_log()
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


@contextmanager
def _enough_memory(arguments: Sequence[str]) -> Iterator[None]:
    """Say which option to lower where there is too little memory.

    Raises:
        UserError: it does.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        from vrpo.runtime.memory import failed_size, is_out_of_memory

        if not is_out_of_memory(error):
            raise
        option, command = BATCHES.get(arguments[0]), f"vrpo {arguments[0]}"
        remedy = "lower it" if option else "use a machine or GPU with more"
        raise UserError(
            f"{option or command}: there is too little memory{failed_size(str(error))}; "
            f"{remedy}, or stop other programs that use it"
        ) from error


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
    """Inputs of the `--output`, for the first rank; the command itself reports missing ones."""
    if not is_first() or not any(word.partition("=")[0] == "--output" for word in arguments):
        return {}
    from vrpo.workflow.restore import inputs_of

    try:
        return inputs_of(arguments)
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _fail(message: str, status: int) -> int:
    if is_first():
        print(message, file=sys.stderr)
    report_error(message, status)
    return status
