"""Results that are asked for again: restored where they were made from the same config and inputs.

Snakemake decides by modification times, and deletes a job's output before the job starts. Copied
results have new times, so it asks for all of them again. Therefore each expensive result has a
note beside it of what it was made from, by content. While a workflow runs, each such result also
has a second name (a hard link, which takes no disk). A job that would make the same result again
restores its output from there.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vrpo.files import partial_path, write_text
from vrpo.plan.paths import Paths
from vrpo.workflow import KEEP
from vrpo.workflow.content import config_hash, content_hash, is_place

log = logging.getLogger(__name__)

STAGES = {
    "images": "images",
    "fit-tokenizer": "fit_network",
    "fit-classifier": "fit_network",
    "fit-critic": "fit_critic",
    "encode-latents": "encode_latents",
    "encode-features": "encode_features describe_features",
    "reference": "reference",
    "train": "train",
    "import-checkpoint": "import_checkpoint",
    "sample": "sample sample_guided",
    "evaluate": "evaluate",
    "representation": "representation_of_run",
}
"""Commands whose results are restored, each with the rules that call it."""

WITHOUT_EFFECT = {
    "--output", "--listing", "--device", "--threads",
    "--save-minutes", "--max-minutes", "--log-every", "--max-skipped",
    "--tracking", "--preview-tokenizer", "--preview-weights", "--run-folder",
}  # fmt: skip
"""Arguments that change no result, or only its last digits."""


def restore(arguments: Sequence[str]) -> bool:
    """Restore the output of the stage that `arguments` call, if it was made from the same inputs.

    Args:
        arguments: of the command line, e.g. `["train", "--config", "config.yaml", ...]`.

    Returns:
        Whether the output exists now; the log says so.
    """
    output = _output_of(arguments)
    if output is None or output.exists() or not kept_path(output).is_file():
        return False
    kept, note = kept_path(output), read_note(output)
    made_from = inputs_of(arguments)
    if note.get("inputs") != made_from:
        log.info("%s: rebuilt, as %s", output, _difference(note.get("inputs", {}), made_from))
        return False
    if note.get("output") != content_hash(kept):
        log.warning("%s: rebuilt, what was kept of it is damaged or was changed", output)
        return False
    _link(kept, output)
    log.info("%s: restored, config and inputs are those that it was made from", output)
    return True


def note_result(arguments: Sequence[str], made_from: Mapping[str, str]) -> None:
    """Note beside the output of a finished stage what it was made from.

    In a workflow, the output also gets its second name.
    """
    output = _output_of(arguments)
    if output is None or not made_from or not output.is_file():
        return
    note = {"stage": arguments[0], "inputs": dict(made_from), "output": content_hash(output)}
    write_text(note_path(output), json.dumps(note, indent=1, sort_keys=True) + "\n")
    if os.environ.get(KEEP):
        _link(output, kept_path(output))


def keep_results(folder: Path, forced: Collection[str]) -> None:
    """Give every noted result below `folder` its second name, which Snakemake does not delete.

    Files from the future, written by a machine with another clock, get the current time: Snakemake
    rejects an output that is older than its input.

    Args:
        folder: results of an experiment, locked by the caller.
        forced: rules and files that the user wants rebuilt in any case; they lose their notes.
    """
    _end_future(folder)
    for note in folder.rglob(".*.made-from"):
        output = note.with_name(note.name.removeprefix(".").removesuffix(".made-from"))
        rules = STAGES.get(read_note(output).get("stage", ""), "").split()
        if str(output) in forced or not set(forced).isdisjoint(rules):
            note.unlink()
            kept_path(output).unlink(missing_ok=True)
            _set_states_aside(output.parent)
        elif output.is_file():
            _link(output, kept_path(output))
    for output in Paths(folder).collected.glob("[!.]*"):
        _link(output, kept_path(output))


def release_results(folder: Path) -> None:
    """Remove the second names of results that exist.

    Collected results whose collection failed come back: figures can be drawn from them alone.
    """
    for kept in folder.rglob(".*.kept"):
        output = kept.with_name(kept.name.removeprefix(".").removesuffix(".kept"))
        if output.is_file():
            kept.unlink()
        elif kept.parent == Paths(folder).collected:
            kept.rename(output)


def inputs_of(arguments: Sequence[str]) -> dict[str, str]:
    """Inputs of a command: each argument, and the content of each file and folder that it names.

    Paths do not count, so that moved results are recognised. Empty for commands without notes.
    """
    output = _output_of(arguments)
    if output is None:
        return {}
    found = {"stage": arguments[0], "name": output.name}
    for name, value in _pairs(arguments[1:]):
        if name in WITHOUT_EFFECT:
            continue
        key, _, place = value.rpartition("=")
        if name in ("--config", "--tokenizer-config"):
            found[name] = config_hash(Path(value))
        elif is_place(place):
            found[f"{name} {key}".strip()] = content_hash(Path(place))
        else:
            found[f"{name} {value}"] = ""
    return found


def note_path(output: Path) -> Path:
    """File that notes what `output` was made from."""
    return output.with_name(f".{output.name}.made-from")


def kept_path(output: Path) -> Path:
    """Second name of `output`."""
    return output.with_name(f".{output.name}.kept")


def read_note(output: Path) -> dict[str, Any]:
    """The note beside `output`; empty where none can be read."""
    try:
        note = json.loads(note_path(output).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _end_future(folder: Path) -> None:
    now = time.time()
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mtime > now:
            os.utime(path, (now, now))


def _set_states_aside(folder: Path) -> None:
    """Rename the states of a training that is to start over."""
    state = folder / "state"
    if state.is_dir():
        names = (folder / f"state-before-{number}" for number in itertools.count(1))
        state.rename(next(name for name in names if not name.exists()))


def _output_of(arguments: Sequence[str]) -> Path | None:
    """Output of the command, if its results are noted."""
    if not arguments or arguments[0] not in STAGES:
        return None
    output = dict(_pairs(arguments[1:])).get("--output")
    return Path(output) if output else None


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, value) of each argument; positional ones are numbered, flags have an empty value."""
    rest, position = list(arguments), 0
    while rest:
        name = rest.pop(0)
        if not name.startswith("--"):
            yield str(position), name
            position += 1
        elif "=" in name:
            yield name.partition("=")[0], name.partition("=")[2]
        else:
            yield name, rest.pop(0) if rest and not rest[0].startswith("--") else ""


def _difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if not before:
        return "it is not known what it was made from"
    changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return f"it was made from something else: {', '.join(changed)}"


def _link(existing: Path, second: Path) -> None:
    """Give a file a second name, replacing that name's file; without hard links, keep nothing."""
    if second.exists() and second.samefile(existing):
        return
    beside = partial_path(second)
    try:
        beside.unlink(missing_ok=True)
        os.link(existing, beside)
        beside.replace(second)
    except OSError as error:
        message = "%s: no hard link to it can be made here (%s); it is rebuilt when it is asked for"
        log.warning(message, existing, error.strerror)
