"""Failures that their message explains, and words for messages. Bad input: ValueError, OSError."""

from collections.abc import Sequence


class ExplainedError(RuntimeError):
    """What was asked cannot be done here and now; the message says why, and what would help.

    The command line shows it as one line. What is neither this nor a ValueError, an OSError or a
    FloatingPointError is a mistake in the program, and shows where it came from.
    """


class HubError(ExplainedError):
    """A hub gave nothing: there is no network, no such repository, or no right to read it."""


def first_of(names: Sequence[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
