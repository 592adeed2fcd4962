"""Where a camera says it stood: the GPS tags of a photo's EXIF data."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from dinomix.images import FORMATS

HEMISPHERES = {"N": 1, "S": -1, "E": 1, "W": -1}


def read_gps(path: str | Path) -> tuple[float, float] | None:
    """Latitude and longitude in degrees from a photo's EXIF tags (CIPA DC-008, GPS IFD).

    Whatever is not a position is none: no tags, broken ones, a missing hemisphere, numbers out of
    range, and 0 degrees in both, which cameras write that have no fix. Altitude is left aside.

    Returns:
        (latitude, longitude), south and west negative; None where there is none, or no readable
        file.
    """
    try:
        # Pillow warns of damaged tags, which are no tags to us.
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            tags = dict(image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    except Exception:  # a damaged file can raise almost anything
        return None
    gps = ExifTags.GPS
    latitude = _degrees(tags, gps.GPSLatitude, gps.GPSLatitudeRef, "NS", 90)
    longitude = _degrees(tags, gps.GPSLongitude, gps.GPSLongitudeRef, "EW", 180)
    if latitude is None or longitude is None or latitude == longitude == 0:
        return None
    return latitude, longitude


def _degrees(
    tags: Mapping[int, Any], value: int, reference: int, hemispheres: str, most: float
) -> float | None:
    """Degrees, minutes and seconds of one tag, signed by the letter of the other."""
    letter = tags.get(reference)
    if isinstance(letter, bytes):
        letter = letter.decode("ascii", "replace")
    letter = str(letter).strip(" \0").upper()
    if len(letter) != 1 or letter not in hemispheres:
        return None
    try:
        given = tags[value]
        parts = [float(part) for part in (given if isinstance(given, tuple) else (given,))]
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    if not 1 <= len(parts) <= 3 or not all(math.isfinite(p) and p >= 0 for p in parts):
        return None  # a rational with denominator 0 is NaN
    degrees = sum(part / 60**i for i, part in enumerate(parts))
    return HEMISPHERES[letter] * degrees if degrees <= most else None
