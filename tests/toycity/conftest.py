import io

import pytest
from PIL import Image

from toycity import TEST_SEED, make_city
from toycity.work import JPEG_QUALITY

QUIET = {"workers": 1, "progress": False}


@pytest.fixture(scope="session")
def city():
    return make_city(TEST_SEED, blocks=3)


def jpeg(photo):
    stream = io.BytesIO()
    Image.fromarray(photo.rgb).save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def mtimes(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}
