"""Which files of a folder are images, and that no photo is left out without a word."""

import os
import warnings

import pytest

from dinomix.data import TestSet
from dinomix.datasets.layouts import read_folders, read_frames
from dinomix.localization.photos import find_photos
from dinomix.plumbing.imagenames import (
    LeftOutWarning,
    image_formats,
    is_visible_image,
    list_images,
)

SUFFIXES = "jpg JPEG jfif jpe mpo jp2 ppm pgm avif webp png tif bmp gif psd heic hif"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_images_are_what_pillow_decodes_and_no_documents():
    for suffix in SUFFIXES.split():
        assert is_visible_image(f"a.{suffix}"), suffix
    for name in ("a.eps", "a.pdf", "a.mpg", "a.h5", "a.dng", "a.CR2", "a.txt", "jpg", ".a.jpg", ""):
        assert not is_visible_image(name), name
    assert not {"EPS", "MPEG", "PDF", "HDF5", "TGA", "WMF"} & set(image_formats())


def test_a_folder_of_images_alone_is_listed_by_name_without_a_word(tmp_path):
    touch(tmp_path, "b.JPG", "a.jfif", "a b.avif", ".hidden.dng", ".old/c.jpg")
    touch(tmp_path, "notes.txt", "positions.csv", "README.md", "report.pdf", "clip.mp4")
    (tmp_path / "empty").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list_images(tmp_path) == [tmp_path / n for n in ("a b.avif", "a.jfif", "b.JPG")]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["a.dng"], r"files that Pillow does not decode: 1 \(a\.dng\)"),
        (["b.CR2", "a.nef", "scan"], r"files .*: 3 \(a\.nef, b\.CR2, scan\)"),
        ([f"{i}.dng" for i in range(9)], r"files .*: 9 \(.*4\.dng and 4 more"),
        (["old/a.jpg", "old/b.jpg", "new/x/c.jpg"], r"images in folders below: 3 \(new/x, old\)"),
        (["old/a.jpg", "old/b.arw"], r"images .*: 1 \(old\), and files .*: 1 \(b\.arw\)"),
    ],
)
def test_what_may_be_a_photo_is_counted_and_named_once(tmp_path, names, complaint):
    root = touch(tmp_path / "root", *names)
    with pytest.raises(FileNotFoundError, match=f"root holds no images. Left out are {complaint}"):
        list_images(root)
    touch(root, "z.jpg")
    with pytest.warns(LeftOutWarning, match=f"root. Left out are {complaint}") as told:
        assert list_images(root) == [root / "z.jpg"]
    assert len(told) == 1


def test_all_ways_in_tell_of_it(tmp_path):
    for name in ("database", "queries"):
        touch(tmp_path / name, "@1001@2@1.jpg", "@1001@2@2.dng", "below/@1001@2@3.jpg")
    sides = tmp_path / "database", tmp_path / "queries"
    both = r"\. Left out are images .*: 1 \(below\), and files .*: 1 \(.*\.dng"
    for opened in (
        lambda: TestSet(tmp_path),
        lambda: read_folders(*sides),
        lambda: read_frames(*sides, tolerance=1),
    ):
        with pytest.warns(LeftOutWarning, match=both) as told:
            opened()
        folders = [str(warning.message).partition(". ")[0] for warning in told]
        assert folders == list(map(str, sides))
    with pytest.warns(
        LeftOutWarning, match=r"database\. Left out are files .*: 1 \(.*\.dng"
    ) as told:
        assert len(find_photos(sides[0]).paths) == 2
    assert len(told) == 1


def test_a_folder_below_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    """Whoever runs the tests may be root, who can open all."""
    touch(tmp_path, "a.jpg", "lost+found/b.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.warns(LeftOutWarning, match=r"lost\+found: Permission denied"):
        assert find_photos(tmp_path).paths == [tmp_path / "a.jpg"]
