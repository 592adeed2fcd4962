"""The command `dinomix`: a module for each group of commands, a function for each command.

A function parses and prints, and calls one of the package's. What it needs is imported within it,
so that `dinomix --help` is instant.
"""

# Each adds its commands to the app; the help lists them in this order.
from dinomix.cli import data, training, evaluation, photos, notebooks  # noqa: I001
from dinomix.cli.app import app

__all__ = ["app", "data", "evaluation", "notebooks", "photos", "training"]
