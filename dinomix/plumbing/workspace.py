"""Where data lies, and whether what a notebook needs is there."""

import os
from collections.abc import Mapping
from pathlib import Path

from dinomix.plumbing.errors import MissingDataError

RENDERING = "toycity.started.json"  # in the folder of a toy city of which images are missing yet
NO_TRAINING = "DINOMIX_NO_TRAINING"  # an environment variable: only runs that are there are used
UNSEEN = "DINOMIX_UNSEEN"  # another: nobody looks on, so views draw before their cell ends

STYLES = ("paper", "talk", "notebook")  # of figures, see `figures.theme`
_styles = ["paper"]


def figure_style(chosen: str | None = None) -> str:
    """What figures are drawn for, one of `STYLES`; `chosen` is it from here on.

    Raises:
        ValueError: there is no such style.
    """
    if chosen is not None:
        if chosen not in STYLES:
            raise ValueError(f"no style {chosen!r} of figures; there are {', '.join(STYLES)}")
        _styles[0] = chosen
    return _styles[0]


def data_root() -> Path:
    """The folder of data sets, runs and results: `DINOMIX_DATA`, or `data` in the checkout.

    The checkout is looked for from the working folder upwards: a notebook in `notebooks/` and a
    script beside it find the same. Outside of one it is `data` in the working folder.
    """
    if chosen := os.environ.get("DINOMIX_DATA"):
        return Path(chosen).absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dinomix" / "plumbing" / "workspace.py").is_file():
            return folder / "data"
    return here / "data"


def require(needed: Mapping[str, str], root: Path | None = None) -> Path:
    """The data folder (`data_root()`, or another); MissingDataError lists what it lacks.

    `needed`: path under the data folder -> what it is and where to get it.
    """
    root = data_root() if root is None else Path(root)
    missing = [
        f"{path}: {what}"
        for path, what in needed.items()
        if not (root / path).exists() or (root / path / RENDERING).exists()
    ]
    if missing:
        lines = missing[0] if len(missing) == 1 else "\n  ".join(["", *missing])
        raise MissingDataError(
            f"the data folder {root} (DINOMIX_DATA names another) lacks all or parts of {lines}"
        )
    return root
