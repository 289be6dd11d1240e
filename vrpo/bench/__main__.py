"""`python -m vrpo.bench train` and `sample`: as `python -m vrpo bench ...`, without typer."""

from __future__ import annotations

import logging
import sys

from vrpo.bench.commands import COMMANDS
from vrpo.errors import UserError


def main() -> None:
    """Run a command; a `UserError` is printed as its line, with exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python -m vrpo.bench {{{','.join(COMMANDS)}}} [--help]")
    try:
        print(COMMANDS[sys.argv[1]](sys.argv[2:], f"python -m vrpo.bench {sys.argv[1]}"))
    except UserError as error:
        print(f"vrpo: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
