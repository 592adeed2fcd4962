"""Views to pretrain on."""

import numpy as np
import pytest

from toycity import TEST_SEED, write_views


def test_views_are_written_once_and_guarded(tmp_path):
    asked = {"seeds": [1000, 1001], "images": 7, "image_size": (20, 28), "blocks": 2, "group": 2}
    quiet = {"workers": 1, "progress": False, "conditions": ("day", "snow")}
    path = write_views(tmp_path, **asked, **quiet)
    images = np.load(path, mmap_mode="r")
    assert images.shape == (7, 20, 28, 3)
    assert all(image.std() > 5 for image in images)
    rows = (tmp_path / "views.csv").read_text().splitlines()[1:]
    assert len(rows) == 7
    assert [row.split(",")[2] for row in rows] == ["0", "0", "1", "1", "2", "2", "3"]
    before = path.stat().st_mtime_ns
    assert write_views(tmp_path, **asked, **quiet) == path
    assert path.stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match=r"another set's, with .*choose another folder"):
        write_views(tmp_path, **(asked | {"images": 8}), **quiet)
    with pytest.raises(ValueError, match="study's own"):
        write_views(tmp_path / "other", seeds=[TEST_SEED])
    with pytest.raises(ValueError, match="images is 0"):
        write_views(tmp_path / "other", images=0)
    with pytest.raises(KeyError, match="fogg"):
        write_views(tmp_path / "other", conditions=["fogg"])
