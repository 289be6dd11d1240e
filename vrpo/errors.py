"""Errors that end a command without a traceback: bad input and interruption."""

BAD_INPUT, INTERRUPTED = 2, 75  # exit statuses; the second is EX_TEMPFAIL: the same command goes on


class UserError(Exception):
    """Bad input, found before or during a stage: one line that says what is wrong, where, and how to mend it. Exit status 2."""


class InterruptionError(Exception):
    """A signal or the wall-time budget ended the work early, with its state saved; the same command goes on. Exit status 75."""
