"""Galleries: read back as a browser would, or as a picture."""

from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from dinomix.localization import write_gallery
from dinomix.localization.localizing import shown
from tests.conftest import write_image
from tests.localization.conftest import find


class Reader(HTMLParser):
    """What a page holds: tags with their attributes, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words += data

    def all(self, tag, key):
        return [attributes[key] for name, attributes in self.tags if name == tag]


def test_page(model, root, tmp_path):
    evil = tmp_path / "<script>alert(1)</script> & \"q'.jpg".replace("/", "")
    write_image(evil, np.random.default_rng(9), size=(1000, 400))
    found = find(model, root, evil, k=7)
    page = Reader(write_gallery(found, tmp_path / "out" / "g.html").read_text("utf-8"))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    images = page.all("img", "src")
    assert len(images) == 8 and all(s.startswith("data:image/jpeg;base64,") for s in images)
    assert page.all("img", "alt") == [str(evil), *found.matches["image"]]
    links = page.all("a", "href")
    assert len(links) == 2 * 7 and set(link.split(":")[0] for link in links) == {"geo", "https"}
    first = found.matches.dropna(subset="latitude").iloc[0]
    assert f"geo:{first['latitude']:.6f},{first['longitude']:.6f}" in links
    assert page.all("figure", "class").count("agrees") == found.matches["agrees"].sum()
    assert f"similarity {found.matches['similarity'][0]:.3f}" in page.words
    assert "2 described" not in page.words and "7 described now" in page.words


def test_page_of_unlabelled_photos(model, root, tmp_path):
    found = find(model, root / "old", root / "old" / "unknown.jpg")
    page = Reader(write_gallery(found, tmp_path / "g.html").read_text("utf-8"))
    assert "position unknown" in page.words and not page.all("a", "href")
    assert shown("a\udcff.jpg") == "a\ufffd.jpg"  # a name that is no text


def test_picture(model, root, query, tmp_path):
    found = find(model, root, [query, *root.glob("@*")], k=4)
    with Image.open(write_gallery(found, tmp_path / "g.PNG")) as picture:
        assert picture.format == "PNG" and picture.width > 700 and picture.height > 1000


def test_refusals(model, root, query, tmp_path):
    found = find(model, root, query, k=1)
    with pytest.raises(ValueError, match=r"as \.html or \.png, not as g\.pdf"):
        write_gallery(found, tmp_path / "g.pdf")
    with pytest.raises(ValueError, match=r"101 queries are too many for a \.png"):
        write_gallery(find(model, root, [query] * 101, k=1), tmp_path / "g.png")
    assert not list(tmp_path.glob("g.*"))
