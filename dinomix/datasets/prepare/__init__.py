"""Benchmarks from their original downloads: `prepare` writes the layout that `TestSet` reads.

One module a data set, each of which plans what its download becomes; `preparation` checks the
plan and carries it out.
"""

from dinomix.datasets.prepare.preparation import PREPARERS, MissingImagesError, Summary, prepare

__all__ = ["PREPARERS", "MissingImagesError", "Summary", "prepare"]
