"""`vrpo STAGE ...`, and `vrpo --gpus N STAGE ...`, which runs a stage on N GPUs of its own."""

from __future__ import annotations

import sys

from vrpo.errors import UserError, refuse
from vrpo.workflow.logs import keep_log, release_log


def main() -> None:
    """Run a command; custom classes are found in the current folder, as in the workflow."""
    sys.path.append("")  # last: a file there hides no package
    keep_log()
    option, equals, count = sys.argv[1].partition("=") if len(sys.argv) > 1 else ("", "", "")
    if option == "--gpus":
        rest = sys.argv[2:]
        on_gpus(count if equals else "".join(rest[:1]), rest if equals else rest[1:])
    else:
        from vrpo.cli import main as run

        run()


def on_gpus(count: str, arguments: list[str]) -> None:
    """Restore the stage's result, or run the stage on `count` GPUs."""
    from vrpo.runtime.launch import launch
    from vrpo.runtime.ranks import set_up_logging
    from vrpo.workflow.restore import restore

    set_up_logging()
    try:
        if not count.isdecimal():
            raise UserError(f"--gpus: `{count}` is no number of GPUs; give 0 or more")
        if restore(arguments):
            release_log()
        else:
            launch(int(count), arguments)
    except UserError as error:
        refuse(error)


if __name__ == "__main__":
    main()
