"""Snakemake's command line: mistakes end in one line, and requests of profiles are kept.

Snakemake itself takes some mistakes for something else, or shows a traceback. The profiles call
`check_command_line` before Snakemake reads config files, the Snakefile when all rules are known.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vrpo.config.messages import nearest
from vrpo.config.reading import merge_configs
from vrpo.errors import UserError, refuse

if TYPE_CHECKING:
    from snakemake.settings.types import ResourceSettings

REQUESTS = {  # spellings of options of which a profile has values, too
    "--set-resources": "--set-resources",
    "--default-resources": "--default-resources",
    "--default-res": "--default-resources",
}
AMOUNTS = {"mem_mb": "number of megabytes", "mem": "amount of memory", "runtime": "time"}
REPEATED = {"--config": ("--config", "-C"), "--configfile": ("--configfile", "--configfiles")}


def check_command_line(
    rules: Iterable[str] = (), makes: Callable[[str], bool] = lambda file: True
) -> None:
    """End the process with one line, status 2, where its command line is wrong.

    Args:
        rules: names of all rules, when they are known.
        makes: whether a rule makes a file.
    """
    if Path(sys.argv[0]).name not in ("snakemake", "__main__.py"):  # called from Python
        return
    from snakemake.cli import get_argument_parser

    try:
        _require_single(sys.argv[1:])
        _require_requests(sys.argv[1:])
        arguments = get_argument_parser().parse_args(sys.argv[1:])
        _require_readable(arguments)
        if rules:
            _require_names(arguments, list(rules), makes)
    except UserError as error:
        refuse(error)


def _require_single(arguments: list[str]) -> None:
    given = [
        argument.partition("=")[0]
        for argument in arguments[: arguments.index("--") if "--" in arguments else None]
    ]
    for option, spellings in REPEATED.items():
        if sum(argument in spellings for argument in given) > 1:
            raise UserError(
                f"{option}: given twice, and Snakemake takes only the last; "
                f"put all values behind one {option}"
            )


def _require_requests(arguments: list[str]) -> None:
    """Refuse requests that Snakemake's parser answers with a traceback, or takes for others."""
    forms = {"--set-resources": r"([\w-]+):(\w+)=(.+)", "--default-resources": r"()(\w+)=(.+)"}
    _, given = _requests(arguments)
    for option, values in given.items():
        form = "RULE:NAME=VALUE" if "set" in option else "NAME=VALUE"
        for value in values:
            found = re.fullmatch(forms[option], value)
            if not found:
                raise UserError(f"{option} {value}: not of the form {form}; e.g. train:mem_mb=8000")
            name, text = found.group(2), found.group(3)
            if name == "gpus":
                raise UserError(f"{option} {value}: there is no such resource; did you mean `gpu`?")
            if name == "gpu" and not text.isdecimal():
                raise UserError(f"{option} {value}: is no number of GPUs; give 0 or more")
            if name == "nodes" and (not text.isdecimal() or int(text) < 1):
                raise UserError(f"{option} {value}: is no number of nodes; give 1 or more")
            if name in AMOUNTS and re.fullmatch(r"[A-Za-z_]+", text):
                raise UserError(f"{option} {value}: is no {AMOUNTS[name]}; give e.g. {name}=90")


def _requests(arguments: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Words of the command line without requests, and the requests by option."""
    kept, given, option = [], {name: [] for name in REQUESTS.values()}, None
    for word in arguments:
        value = word
        if word.startswith("-"):
            spelling, _, value = word.partition("=")
            option = REQUESTS.get(spelling)
            value = value if "=" in word else ""
        if option is None:
            kept.append(word)
        elif value or "=" in word:
            given[option].append(value)
    return kept, given


def _require_readable(arguments: argparse.Namespace) -> None:
    from snakemake.common.configfile import load_configfile

    for file in arguments.configfile:
        if not file.exists():
            raise UserError(
                f"--configfile {file}: no such file; "
                "correct its name, or, if it is a target, put it behind `--`"
            )
    merge_configs(arguments.configfile, arguments.config or [])
    for file in arguments.configfile:
        try:
            load_configfile(file)
        except Exception as error:  # whatever its YAML reader raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{file}: Snakemake cannot read it ({reason}); put unusual text in quotes"
            ) from error


def _require_names(
    arguments: argparse.Namespace, rules: list[str], makes: Callable[[str], bool]
) -> None:
    files = [
        *arguments.targets,
        *(arguments.forcerun or []),
        *(arguments.until or []),
        *(arguments.omit_from or []),
        *(arguments.prioritize or []),
    ]
    for name in files:
        if name in rules or makes(name):
            continue
        if makes(os.path.relpath(name)):
            raise UserError(
                f"{name}: no rule makes a file of this name; name it `{os.path.relpath(name)}`"
            )
        raise UserError(
            f"{name}: neither a rule nor a file that a rule makes; {nearest(name, rules)}"
        )
    for option in ("allowed_rules", "set_resources", "set_threads"):
        for name in getattr(arguments, option) or []:
            if name not in rules:
                where = f"--{option.replace('_', '-')} {name}"
                raise UserError(f"{where}: there is no such rule; {nearest(name, rules)}")


def keep_requests_of_profiles(settings: ResourceSettings) -> None:
    """Give `settings` the profile's requests that the command line does not change.

    Snakemake drops all of a profile's `set-resources` (`default-resources`) when the command line
    has that option: `--set-resources train:gpu=4` would lose the memory of every other rule.
    """
    if Path(sys.argv[0]).name not in ("snakemake", "__main__.py"):  # called from Python
        return
    kept, given = _requests(sys.argv[1:])
    if not any(given.values()):
        return
    from snakemake.cli import parse_args
    from snakemake.resources import Resources

    with contextlib.redirect_stderr(io.StringIO()):  # it names the profiles, once more
        _, profile = parse_args(kept)
    for rule, requests in (profile.set_resources or {}).items():
        merged = requests.copy()
        merged.update(settings.overwrite_resources.get(rule, {}))
        settings.overwrite_resources[rule] = merged
    if profile.default_resources is not None:
        merged = profile.default_resources.copy()
        merged.update(Resources.parse(given["--default-resources"], allow_expressions=True))
        settings.default_resources = merged
