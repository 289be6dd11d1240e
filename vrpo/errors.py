"""Errors that end a command without a traceback: bad input and interruption."""

import sys
from typing import NoReturn

PREFIX = "vrpo: error: "
BAD_INPUT, INTERRUPTED = 2, 75  # exit statuses; 75 is EX_TEMPFAIL: the same command resumes


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and how to fix it. Exit status 2."""


class InterruptionError(Exception):
    """A signal or the time budget ended the work; its state is saved. Exit status 75."""

    def __init__(self, message: str, *, out_of_time: bool = False) -> None:
        super().__init__(message)
        self.out_of_time = out_of_time


def refuse(error: UserError | str) -> NoReturn:
    """End the process with the error's line."""
    print(f"{PREFIX}{error}", file=sys.stderr)
    sys.exit(BAD_INPUT)
