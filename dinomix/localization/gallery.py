"""Queries beside what was found for them, as an HTML page of its own or as a picture."""

import base64
import io
from functools import lru_cache
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from dinomix.images import read_image
from dinomix.localization.localizing import Localization, distance_text, position_text, shown
from dinomix.localization.maps import COLOURS, SIZE, draw, spots
from dinomix.plumbing.files import atomic_path, require_suffix

GALLERIES = ".html", ".png"
MOST_ROWS = 100  # of a .png: more would be taller than pictures can be
THUMBNAIL = 320  # pixels of the longer side
BLUE = COLOURS["estimate"]  # frames what it is made of


def write_gallery(result: Localization, file: str | Path) -> Path:
    """Each query beside its matches, with similarity, distance from the estimate and position.

    An .html file holds its thumbnails and drawn maps, runs no script, and links positions in
    degrees to a map. Matches that the estimate is made of are framed in blue.

    Raises:
        ValueError: the name ends in neither .html nor .png, or a .png of over 100 queries.
        UnreadableImageError, FileNotFoundError: a photo is no longer as it was when described.
    """
    file = require_suffix(file, "a gallery", *GALLERIES)
    if file.suffix.lower() == ".html":
        _write_page(result, file)
    else:
        _write_picture(result, file)
    return file


def _write_page(result: Localization, file: Path) -> None:
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters |= {
        "data_uri": lru_cache(maxsize=256)(_data_uri),
        "distance": distance_text,
        "name": lambda path: Path(path).name,
        "position": position_text,
        "shown": shown,
    }
    # written as it is made: thumbnails of many queries would be much at once
    own = {"result": result, "blue": BLUE, "colours": COLOURS, "size": SIZE.tolist()}
    every = [spot for estimate, _ in result.by_query() for spot in spots(estimate, [])]
    own |= {"overview": draw(every, result.around, True), "spots": spots, "draw": draw}
    stream = pages.get_template("gallery.html.j2").stream(own)
    with atomic_path(file) as path:
        stream.dump(str(path), encoding="utf-8")


def _write_picture(result: Localization, file: Path) -> None:
    from dinomix.figures import image_grid, save_figure  # slow to load

    if len(result.estimates) > MOST_ROWS:
        raise ValueError(
            f"{len(result.estimates)} queries are too many for a .png, which takes {MOST_ROWS}: "
            "write an .html"
        )
    images, titles, frames = [], [], []
    for estimate, matches in result.by_query():
        paths = [estimate["query"], *(match["image"] for match in matches)]
        images.append([np.asarray(_thumbnail(path)) for path in paths])
        frames.append([None, *(BLUE if match["agrees"] else None for match in matches)])
        words = [(f"{m['similarity']:.2f}", distance_text(m["metres"])) for m in matches]
        titles.append(["query", *(", ".join(filter(None, each)) for each in words)])
    save_figure(image_grid(images, titles=titles, frames=frames), file, pdf=False)


def _data_uri(path: str) -> str:
    data = io.BytesIO()
    _thumbnail(path).save(data, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _thumbnail(path: str) -> Image.Image:
    image = read_image(path)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return image
