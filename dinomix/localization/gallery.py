"""A gallery as one HTML file: no scripts, nothing from elsewhere."""

import base64
import io
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinomix.images import read_image
from dinomix.localization.localizing import Localization, distance_text, position_text, shown
from dinomix.plumbing.files import atomic_path

THUMBNAIL = 320  # pixels of the longer side
BLUE = "#0072b2"  # frames what the estimate is made of
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; }
h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .2rem 0 .8rem; opacity: .8; overflow-wrap: anywhere; }
section { border-top: 1px solid #8886; margin-top: 1.5rem; padding-top: 1rem; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; width: 11rem; }
.query { padding-right: 1rem; border-right: 1px solid #8886; }
img { width: 100%; height: 8.25rem; object-fit: contain; background: #8882; }
.agrees img { outline: 3px solid BLUE; }
figcaption { font-size: .8rem; margin-top: .3rem; overflow-wrap: anywhere; }
small { opacity: .7; }
""".replace("BLUE", BLUE)


def page(result: Localization) -> Iterator[str]:
    """The page's text, piece by piece: thumbnails of many queries would be much at once."""
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
    yield f"<title>dinomix localize</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    yield f"<h1>dinomix localize</h1>\n<p>{_text(result.summary)}"
    if result.estimates["agreeing"].any():
        yield "; framed in blue is what an estimate is made of"
    yield "</p>\n"
    data_uri = lru_cache(maxsize=256)(_data_uri)
    for estimate, matches in result.by_query():
        yield f"<section>\n<h2>{_text(estimate['query'])}</h2>\n"
        yield f"<p>{_linked(estimate, result.verdict(estimate, len(matches)))}</p>\n"
        yield '<div class="row">\n'
        yield _figure("query", data_uri(estimate["query"]), estimate["query"], ["query"])
        for match in matches:
            kind = "agrees" if match["agrees"] else "match"
            yield _figure(kind, data_uri(match["image"]), match["image"], _caption(match))
        yield "</div>\n</section>\n"
    yield "</body>\n</html>\n"


def _figure(kind: str, data: str, path: str, caption: list[str]) -> str:
    name = _text(path)
    return (
        f'<figure class="{kind}"><img src="{data}" alt="{name}" title="{name}">'
        f"<figcaption>{'<br>'.join(caption)}</figcaption></figure>\n"
    )


def _caption(match: Mapping[str, Any]) -> list[str]:
    lines = [f"{match['rank']}. similarity {match['similarity']:.3f}"]
    if distance := distance_text(match["metres"]):
        lines.append(f"{distance} from the estimate")
    if position := position_text(match):
        lines.append(_linked(match, position))
    return [*lines, f"<small>{_text(Path(match['image']).name)}</small>"]


def _linked(row: Mapping[str, Any], text: str) -> str:
    """Text with links to a map where degrees are known."""
    if math.isnan(row["latitude"]):
        return _text(text)
    latitude, longitude = f"{row['latitude']:.6f}", f"{row['longitude']:.6f}"
    street_map = (
        f"https://www.openstreetmap.org/?mlat={latitude}&amp;mlon={longitude}"
        f"#map=18/{latitude}/{longitude}"
    )
    return (
        f'{_text(text)} (<a href="{street_map}" rel="noreferrer">map</a>, '
        f'<a href="geo:{latitude},{longitude}">geo</a>)'
    )


def _text(text: str) -> str:
    return escape(shown(text))


def thumbnail(path: str) -> Image.Image:
    """An image file, small enough for many of them to be in memory.

    Raises:
        UnreadableImageError, FileNotFoundError: it cannot be read.
    """
    image = read_image(path)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return image


def _data_uri(path: str) -> str:
    data = io.BytesIO()
    thumbnail(path).save(data, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


# Queries beside what was found, as a page of its own or as a picture.
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
