"""Errors that end a command without a traceback: bad input and interruption."""

BAD_INPUT, INTERRUPTED = 2, 75  # exit statuses; 75 is EX_TEMPFAIL: the same command resumes


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and how to fix it. Exit status 2."""


class InterruptionError(Exception):
    """A signal or the time budget ended the work; its state is saved. Exit status 75."""
