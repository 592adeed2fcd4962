"""`localize` on made photos: what it finds, where it says that is, and how it shows it."""

import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import ExifTags, Image

import dinomix
from dinomix.images import UnreadableImageError
from dinomix.localization import stand_in, write_gallery, zero_shot
from dinomix.localization.index import NAME
from dinomix.localization.localizing import distance_text, shown
from dinomix.model import PRESETS, ModelConfig, build_model
from dinomix.retrieval import SkippedImageWarning, describe
from tests.conftest import write_image


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(
        ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8, out_rows=2)
    )


@pytest.fixture
def root(tmp_path):
    """Six photos 10 m apart, and one of which nobody knows where it was taken."""
    rng = np.random.default_rng(0)
    for i in range(6):
        name = f"@{400_000 + 10 * i:.2f}@5000000.00@31@T@@@p{i}@@@@@@@@.jpg"
        write_image(tmp_path / "photos" / name, rng)
    write_image(tmp_path / "photos" / "old" / "unknown.jpg", rng)
    return tmp_path / "photos"


@pytest.fixture
def query(tmp_path):
    write_image(tmp_path / "q.jpg", np.random.default_rng(9))
    return tmp_path / "q.jpg"


def find(model, root, query, **options):
    return dinomix.localize(model, root, query, progress=False, **options)


def test_matches_are_the_nearest_and_metres_those_to_the_estimate(model, root, query):
    found = find(model, root, query, k=4)
    assert found.matches.columns.tolist() == [
        "query", "rank", "image", "similarity", "latitude", "longitude",
        "utm_east", "utm_north", "utm_zone", "metres", "agrees",
    ]  # fmt: skip
    paths = sorted(root.rglob("*.jpg"))
    similarity = (
        describe(model, paths, progress=False) @ describe(model, [query], progress=False)[0]
    )
    order = np.argsort(-similarity)[:4]
    assert found.matches["image"].tolist() == [str(paths[i]) for i in order]
    np.testing.assert_allclose(found.matches["similarity"], similarity[order], atol=1e-5)
    assert found.matches["rank"].tolist() == [1, 2, 3, 4]
    assert set(found.matches["query"]) == {str(query)}
    (estimate,) = found.estimates.to_dict("records")
    known = found.matches.dropna(subset="utm_east")
    expected = (known["utm_east"] - estimate["utm_east"]).abs()
    np.testing.assert_allclose(known["metres"], expected, rtol=1e-3, atol=1e-3)
    assert estimate["agreeing"] == found.matches["agrees"].sum() >= 1
    assert estimate["utm_zone"] == "31T" and np.isnan(estimate["error"])
    agreeing = known[known["agrees"]]
    weights = 1 / agreeing["rank"]
    mean = (agreeing["utm_east"] * weights).sum() / weights.sum()
    assert estimate["utm_east"] == pytest.approx(mean, abs=1e-3)


def test_a_folder_of_queries_in_one_table(model, root, query, tmp_path):
    write_image(tmp_path / "asked" / "r.jpg", np.random.default_rng(11))
    write_image(tmp_path / "asked" / "in" / "s.jpg", np.random.default_rng(12))
    found = find(model, root, [query, tmp_path / "asked"], k=2)
    names = [str(tmp_path / name) for name in ("q.jpg", "asked/in/s.jpg", "asked/r.jpg")]
    assert found.estimates["query"].tolist() == names
    assert found.matches["query"].tolist() == [name for name in names for _ in range(2)]
    alone = find(model, root, tmp_path / "asked" / "r.jpg", k=2).matches
    together = found.matches[found.matches["query"] == names[2]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, together, rtol=1e-5)


def test_a_query_in_the_database_is_found_and_k_may_exceed_it(model, root):
    image = sorted(root.glob("@*"))[3]
    found = find(model, root, image, k=100)
    assert len(found.matches) == 7
    first = found.matches.iloc[0]
    assert first["image"] == str(image) and first["similarity"] == pytest.approx(1, abs=1e-5)
    error = found.estimates["error"].item()  # the query's own name says where it was taken
    assert error == pytest.approx(abs(found.estimates["utm_east"].item() - 400_030), rel=1e-3)


def test_one_photo_is_a_database(model, root):
    found = find(model, root / "old", root / "old" / "unknown.jpg")
    assert len(found.matches) == 1 and found.estimates["agreeing"].item() == 0
    assert found.estimates[["latitude", "utm_east", "error"]].isna().all(axis=None)
    assert not found.matches["agrees"].any() and found.matches["metres"].isna().all()


def test_positions_from_exif_and_from_a_csv_file(model, root, query, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.IFD.GPSInfo] = {1: "S", 2: (33, 51, 24.0), 3: "E", 4: (151, 12, 54.0)}
    with Image.open(query) as image:
        image.save(tmp_path / "gps.jpg", exif=exif)
    (tmp_path / "d.csv").write_text("image,utm_east,utm_north\nq.jpg,300000,6000000\n")
    found = find(model, tmp_path / "d.csv", tmp_path / "gps.jpg", index=None)
    row = found.matches.iloc[0]
    assert (row["utm_east"], row["utm_north"], row["utm_zone"]) == (300_000, 6_000_000, "")
    assert np.isnan(row["latitude"]) and np.isnan(found.estimates["error"].item())
    found = find(model, tmp_path / "gps.jpg", query, index=None)
    assert found.matches["latitude"].item() == pytest.approx(-(33 + 51 / 60 + 24 / 3600))
    assert found.matches["utm_zone"].item() == "56H"


def test_the_index_lies_beside_the_database_or_where_one_says(model, root, query, tmp_path):
    found = find(model, root, query)
    assert found.index == root / NAME and (found.photos, found.fresh) == (7, 7)
    assert find(model, root, query).fresh == 0
    kept = tmp_path / "kept" / "photos.index"
    assert find(model, root, query, index=kept).fresh == 7
    assert find(model, root, query, index=kept).fresh == 0
    assert find(model, root, query, index=None).fresh == 7


def test_damaged_photos_are_told(model, root, query):
    (root / "old" / "half.jpg").write_bytes(b"\xff\xd8 half")
    for _ in range(2):
        with pytest.warns(SkippedImageWarning, match=r"1 of 8 photos .*old.half\.jpg") as told:
            found = find(model, root, query, k=8)
        assert len(told) == 1
        assert found.skipped == [root / "old" / "half.jpg"] and len(found.matches) == 7
        assert "1 cannot be read" in repr(found)


@pytest.mark.parametrize("name", ["a.webp", "a.tif", "a.bmp", "a.gif"])
def test_photos_of_other_kinds_are_found_and_drawn(model, root, query, tmp_path, name):
    with Image.open(query) as image:
        image.save(root / "old" / name)
    found = find(model, root, query, k=1)
    assert found.photos == 8 and found.skipped == []
    assert find(model, root, root / "old" / name, k=1).matches["image"].item() == str(
        root / "old" / name
    )
    write_gallery(find(model, root, root / "old" / name, k=8), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") >= 9


def test_photos_that_cannot_be_decoded_are_told_too(model, root, query):
    (root / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.warns(SkippedImageWarning, match=r"1 of 8 photos .*IMG_1\.HEIC"):
        assert find(model, root, query).skipped == [root / "IMG_1.HEIC"]
    with pytest.raises(UnreadableImageError, match=r"IMG_1\.HEIC.*Convert it to JPEG, PNG, "):
        find(model, root, root / "IMG_1.HEIC")


def test_a_damaged_query_is_an_error_before_the_database_is_described(model, root, tmp_path):
    (tmp_path / "q.jpg").write_bytes(b"\xff\xd8 half")
    with pytest.raises(UnreadableImageError, match=r"q\.jpg"):
        find(model, root, tmp_path / "q.jpg")
    assert not (root / NAME).exists()


def test_nothing_to_search(model, root, query, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"no image")
    with (
        pytest.raises(ValueError, match=r"no photo of .*bad can be read"),
        pytest.warns(SkippedImageWarning),
    ):
        find(model, tmp_path / "bad", query)
    with pytest.raises(ValueError, match="no queries"):
        find(model, root, [])
    with pytest.raises(ValueError, match="k is 0 and radius 25"):
        find(model, root, query, k=0)
    with pytest.raises(ValueError, match="radius nan"):
        find(model, root, query, radius=float("nan"))


def test_in_words_and_literals(model, root, query):
    found = find(model, root, query, k=3)
    index = re.escape(str(root / NAME))
    assert re.fullmatch(rf"1 query in 7 photos \(7 described now, index {index}\)", found.summary)
    ((estimate, matches),) = found.by_query()
    assert [match["rank"] for match in matches] == [1, 2, 3]
    told = {"latitude": 45.15, "longitude": 1.73, "agreeing": 2, "error": 12_345.0}
    assert found.verdict(told, 3) == (
        "estimated at 45.15000, 1.73000; 2 of 3 matches agree within 25 m; "
        "12 km from where the query says it was taken"
    )
    told = {"latitude": np.nan, "utm_east": 4e5, "utm_north": 5e6, "agreeing": 1, "error": np.nan}
    assert found.verdict(told, 1) == "estimated at 400000.0 m east, 5000000.0 m north"
    assert "; none of 3 matches agree" in found.verdict(told, 3)
    assert "position unknown" in found.verdict({"agreeing": 0}, 3)
    (asked,) = found.to_dict()["queries"]
    assert asked["matches"][0]["image"] == matches[0]["image"]
    assert asked["latitude"] == estimate["latitude"]
    assert [distance_text(m) for m in (3.4, 9999, 1e5, np.nan)] == ["3 m", "9,999 m", "100 km", ""]


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


class TestGallery:
    def test_page(self, model, root, tmp_path):
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

    def test_page_of_unlabelled_photos(self, model, root, tmp_path):
        found = find(model, root / "old", root / "old" / "unknown.jpg")
        page = Reader(write_gallery(found, tmp_path / "g.html").read_text("utf-8"))
        assert "position unknown" in page.words and not page.all("a", "href")

    def test_names_that_are_no_text(self):
        assert shown("a\udcff.jpg") == "a\ufffd.jpg"

    def test_picture(self, model, root, query, tmp_path):
        found = find(model, root, [query, *root.glob("@*")], k=4)
        with Image.open(write_gallery(found, tmp_path / "g.PNG")) as picture:
            assert picture.format == "PNG" and picture.width > 700 and picture.height > 1000

    def test_refusals(self, model, root, query, tmp_path):
        found = find(model, root, query, k=1)
        with pytest.raises(ValueError, match=r"as \.html or \.png, not as g\.pdf"):
            write_gallery(found, tmp_path / "g.pdf")
        with pytest.raises(ValueError, match=r"101 queries are too many for a \.png"):
            write_gallery(find(model, root, [query] * 101, k=1), tmp_path / "g.png")
        assert not list(tmp_path.glob("g.*"))


class TestUntrained:
    def test_the_stand_in_is_pretrained_and_always_the_same(self, root):
        one, two = stand_in(), stand_in()
        path = [next(root.glob("@*"))]
        described = describe(one, path, progress=False)
        np.testing.assert_array_equal(described, describe(two, path, progress=False))
        torch.manual_seed(1)
        random = build_model(one.config)
        assert np.abs(described - describe(random, path, progress=False)).max() > 0.01

    def test_presets(self, monkeypatch, tmp_path):
        with pytest.raises(ValueError, match=r"no preset 'gem_dino'; choose one of .*gem_dinov2"):
            zero_shot("gem_dino")
        with pytest.raises(FileNotFoundError, match="no weights"):
            zero_shot("dino_mix_toy", tmp_path / "weights.pth")
        with pytest.warns(UserWarning, match="aggregator 'mix' is random"):
            one = zero_shot("dino_mix_toy")
        torch.manual_seed(5)
        with pytest.warns(UserWarning, match="is random"):
            two = zero_shot("dino_mix_toy")
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(a, b)
        monkeypatch.setitem(PRESETS, "tiny", stand_in().config)
        with warnings.catch_warnings(action="error"):  # nothing is random here
            assert zero_shot("tiny").config.aggregator == "gem"
