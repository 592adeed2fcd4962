"""Queries beside what was found, as a page of its own or as a picture."""

from pathlib import Path

import numpy as np

from dinomix.localization.page import BLUE, page, thumbnail
from dinomix.localization.result import Localization, distance_text
from dinomix.storage import atomic_path

SUFFIXES = (".html", ".png")
MOST_ROWS = 100  # of a .png: more would be taller than pictures can be


def write_gallery(result: Localization, file: str | Path) -> Path:
    """Each query beside its matches, with similarity, distance from the estimate and position.

    An .html file holds its thumbnails, runs no script, and links positions in degrees to a map.
    Matches that the estimate is made of are framed in blue.

    Raises:
        ValueError: the file's name ends in neither .html nor .png, or there are more than 100
            queries for a .png.
        UnreadableImageError, FileNotFoundError: a photo is no longer as it was when described.
    """
    file = check_gallery(file)
    if file.suffix.lower() == ".html":
        with atomic_path(file) as path, path.open("w", encoding="utf-8") as stream:
            stream.writelines(page(result))
    else:
        _write_picture(result, file)
    return file


def check_gallery(file: str | Path) -> Path:
    """The name of a gallery; to know before hours of describing that it can be one.

    Raises:
        ValueError: it ends in neither .html nor .png.
    """
    file = Path(file)
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a gallery is written as {' or '.join(SUFFIXES)}, not as {file.name}")
    return file


def _write_picture(result: Localization, file: Path) -> None:
    from dinomix.figures import image_grid, save_figure

    if len(result.estimates) > MOST_ROWS:
        raise ValueError(
            f"{len(result.estimates)} queries are too many for a .png, which takes {MOST_ROWS}: "
            "write an .html"
        )
    images, titles, frames = [], [], []
    for estimate, matches in result.by_query():
        paths = [estimate["query"], *(match["image"] for match in matches)]
        images.append([np.asarray(thumbnail(path)) for path in paths])
        frames.append([None, *(BLUE if match["agrees"] else None for match in matches)])
        told = [(f"{match['similarity']:.2f}", distance_text(match["metres"])) for match in matches]
        titles.append(["query", *(", ".join(filter(None, words)) for words in told)])
    save_figure(image_grid(images, titles=titles, frames=frames, cell=1.6), file)
