"""Failures that their message explains. Bad arguments and files are ValueError and OSError."""


class ExplainedError(RuntimeError):
    """What was asked cannot be done here and now; the message says why, and what would help.

    The command line shows it as one line. A failure that is none of these, nor a ValueError, an
    OSError or a FloatingPointError, is a mistake in the program, and shows where it came from.
    """


class HubError(ExplainedError):
    """A hub gave nothing: there is no network, no such repository, or no right to read it."""
