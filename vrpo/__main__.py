"""`vrpo STAGE ...`, and `vrpo [--nodes M] --gpus N STAGE ...` for a stage on GPUs of its own."""

from __future__ import annotations

import sys

from vrpo.errors import UserError, refuse
from vrpo.workflow.logs import keep_log, release_log

AMOUNTS = {"--nodes": ("nodes", 1), "--gpus": ("GPUs", 0)}
"""Leading options: what they count, and the least."""


def main() -> None:
    """Run a command; custom classes are found in the current folder, as in the workflow."""
    sys.path.append("")  # last: a file there hides no package
    keep_log()
    amounts, rest = {}, sys.argv[1:]
    while rest and (option := rest[0].partition("=")[0]) in AMOUNTS:
        word, rest = rest[0], rest[1:]
        if "=" not in word:
            word, rest = f"{word}={''.join(rest[:1])}", rest[1:]
        amounts[option] = word.partition("=")[2]
    if amounts:
        on_gpus(amounts, rest)
    else:
        from vrpo.cli import main as run

        run()


def on_gpus(amounts: dict[str, str], arguments: list[str]) -> None:
    """Restore the stage's result, or run the stage on so many nodes and GPUs of each."""
    from vrpo.runtime.launch import launch
    from vrpo.runtime.nodes import run_on_nodes
    from vrpo.runtime.ranks import set_up_logging
    from vrpo.workflow.restore import restore

    set_up_logging()
    try:
        for option, text in amounts.items():
            what, least = AMOUNTS[option]
            if not text.isdecimal() or int(text) < least:
                raise UserError(f"{option}: `{text}` is no number of {what}; give {least} or more")
        nodes, gpus = int(amounts.get("--nodes", "1")), int(amounts.get("--gpus", "0"))
        if restore(arguments):
            release_log(restored=True)
        elif nodes > 1:
            status = run_on_nodes(nodes, gpus, arguments)
            if not status:
                release_log()
            sys.exit(status)
        else:
            launch(gpus, arguments)
    except UserError as error:
        refuse(error)


if __name__ == "__main__":
    main()
