"""`localize` on made photos: what it finds, and where the vote of the matches says that is."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from dinomix.images import UnreadableImageError
from dinomix.localization import Position, estimate_position, write_gallery
from dinomix.localization.index import NAME
from dinomix.localization.localizing import distance_text
from dinomix.model import ModelConfig, build_model
from dinomix.retrieval import SkippedImageWarning, describe
from tests.conftest import write_image
from tests.localization.conftest import find

FAR = 1000.0


def plan(*easts):
    """Positions in metres on a line; None stays unknown."""
    return [None if east is None else Position.from_utm(east, 0) for east in easts]


def agreeing(positions, radius=25.0):
    return np.flatnonzero(estimate_position(positions, radius).agrees).tolist()


def test_weights_fall_with_the_rank_and_the_radius_is_included():
    found = estimate_position(plan(0, 10, FAR, 20))
    assert found.agrees.tolist() == [True, True, False, True]
    expected = (0 + 10 / 2 + 20 / 4) / (1 + 1 / 2 + 1 / 4)
    assert found.position.utm_east == pytest.approx(expected)
    assert agreeing(plan(0, FAR, FAR)) == [0]  # the first wins against two
    assert agreeing(plan(0, FAR, FAR, FAR)) == [1, 2, 3]  # and loses against three
    assert agreeing(plan(0, 25)) == [0, 1] and agreeing(plan(0, 25.01)) == [0]
    assert agreeing(plan(0, 60), radius=60) == [0, 1]


def test_unknown_positions_neither_vote_nor_crash():
    found = estimate_position(plan(None, 5, None, FAR))
    assert found.position.utm_east == 5 and found.agrees.tolist() == [False, True, False, False]
    nothing = estimate_position(plan(None, None))
    assert nothing.position is None and nothing.agrees.tolist() == [False, False]
    assert estimate_position([]).position is None


def test_metres_without_a_zone_do_not_mix_with_degrees():
    earth = Position.from_degrees(48, 2)
    assert agreeing([earth, *plan(0, 0, 0, 0)]) == [0]
    assert agreeing([*plan(0), earth, earth, earth, earth]) == [0]


def test_degrees_are_averaged_across_the_date_line():
    places = [Position.from_degrees(-17, longitude) for longitude in (179.9999, -179.9997)]
    found = estimate_position(places, radius=100)
    assert found.agrees.all()
    assert found.position.longitude % 360 == pytest.approx(179.9999 + 0.0004 / 3, abs=1e-9)
    assert found.position.latitude == pytest.approx(-17, abs=1e-9)


@given(st.lists(st.none() | st.integers(0, 200), min_size=1, max_size=8), st.integers(1, 80))
def test_against_loops(easts, radius):
    votes = {}
    for i, east in enumerate(easts):
        if east is not None:
            votes[i] = sum(
                1 / (j + 1)
                for j, other in enumerate(easts)
                if other is not None and abs(other - east) <= radius
            )
    found = estimate_position(plan(*easts), radius)
    if not votes:
        assert found.position is None
        return
    most = max(votes.values())
    winners = [i for i, vote in votes.items() if vote > most - 1e-12]
    means = []
    for winner in winners:  # sums in another order may round ties differently
        near = [
            j for j, e in enumerate(easts) if e is not None and abs(e - easts[winner]) <= radius
        ]
        total = sum(1 / (j + 1) for j in near)
        means.append((sum(easts[j] / (j + 1) for j in near) / total, near))
    got = (found.position.utm_east, np.flatnonzero(found.agrees).tolist())
    assert any(got[0] == pytest.approx(mean) and got[1] == near for mean, near in means)


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
    found = find(model, root, image, k=np.int64(100))
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


def test_descriptors_of_another_image_size_are_others(root, query):
    model = build_model(ModelConfig(backbone="toy_vits14", image_size=28, aggregator="gem"))
    sizes = (None, (42, 56), "native", (42, 56), 28)
    found = [find(model, root, query, image_size=size) for size in sizes]
    assert [each.fresh for each in found] == [7, 7, 7, 0, 0]
    for size, each in zip(sizes, found, strict=True):
        alone = find(model, root, query, image_size=size, index=None)
        assert each.matches["similarity"].tolist() == alone.matches["similarity"].tolist()
    assert found[0].matches["similarity"].tolist() != found[1].matches["similarity"].tolist()


def test_damaged_photos_are_listed(model, root, query):
    (root / "old" / "half.jpg").write_bytes(b"\xff\xd8 half")
    for _ in range(2):
        with pytest.warns(SkippedImageWarning, match=r"1 of 8 photos .*old.half\.jpg") as warned:
            found = find(model, root, query, k=8)
        assert len(warned) == 1
        assert found.skipped == [root / "old" / "half.jpg"] and len(found.matches) == 7
        assert "1 cannot be read" in repr(found) and found.fresh in (7, 0)


def test_photos_of_other_kinds_are_found_and_drawn(model, root, query, tmp_path):
    others = [root / "old" / name for name in ("a.webp", "a.tif", "a.bmp", "a.gif")]
    for number, path in enumerate(others):
        with Image.open(query) as image:
            image.rotate(90 * number).save(path)
    found = find(model, root, others, k=11)
    assert found.photos == 11 and found.skipped == []
    first = found.matches[found.matches["rank"] == 1]
    assert first["image"].tolist() == [str(path) for path in others]
    write_gallery(found, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") == 4 * 12


def test_photos_that_cannot_be_decoded_are_listed_too(model, root, query):
    (root / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.warns(SkippedImageWarning, match=r"1 of 8 photos .*IMG_1\.HEIC"):
        assert find(model, root, query).skipped == [root / "IMG_1.HEIC"]
    with pytest.raises(UnreadableImageError, match=r"IMG_1\.HEIC.*Convert it to JPEG"):
        find(model, root, root / "IMG_1.HEIC")


def test_a_damaged_query_is_an_error_before_the_database_is_described(model, root, query):
    query.write_bytes(b"\xff\xd8 half")
    with pytest.raises(UnreadableImageError, match=r"q\.jpg"):
        find(model, root, query)
    assert not (root / NAME).exists()


def test_damaged_queries_are_left_out_where_asked(model, root, query, tmp_path):
    (root / "half.jpg").write_bytes(b"\xff\xd8 half")  # in the database, and a query
    asked = [root / "half.jpg", query]
    for workers in (0, 2):
        with pytest.raises(UnreadableImageError) as error:
            find(model, root, asked, workers=workers)
        assert re.fullmatch(
            r"cannot decode .*half\.jpg.* on_error=.*--skip-damaged.*", str(error.value)
        )
    with pytest.warns(SkippedImageWarning, match=r"half\.jpg"):
        found = find(model, root, asked, on_error="skip")
    assert found.skipped == asked[:1] and found.estimates["query"].tolist() == [str(query)]
    plain = find(model, root, query)
    pd.testing.assert_frame_equal(found.matches, plain.matches)
    with (
        pytest.raises(ValueError, match=r"no query can be read: .*half\.jpg"),
        pytest.warns(SkippedImageWarning),
    ):
        find(model, root, asked[0], on_error="skip")


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
    for words, wrong in (
        ("k is 0", {"k": 0}),
        ("k is '5'", {"k": "5"}),
        ("radius is nan", {"radius": float("nan")}),
        ("radius is .25.", {"radius": "25"}),
        ("radius is 0", {"radius": 0}),
    ):
        with pytest.raises(ValueError, match=words):
            find(model, root, query, **wrong)


def test_in_words_and_literals(model, root, query):
    found = find(model, root, query, k=3)
    index = re.escape(str(root / NAME))
    assert re.fullmatch(rf"1 query in 7 photos \(7 described now, index {index}\)", found.summary)
    ((estimate, matches),) = found.by_query()
    assert [match["rank"] for match in matches] == [1, 2, 3]
    told = {"latitude": 45.15, "longitude": 1.73, "agreeing": 2, "error": 12_345.0}
    near = [
        {"rank": i + 1, "agrees": i < 2, "latitude": 45.15, "longitude": 1.73} for i in range(3)
    ]
    assert found.verdict(told, near) == (
        "estimated at 45.15000, 1.73000; 2 of 3 matches agree within 25 m; "
        "12 km from where the query says it was taken"
    )
    told = {"latitude": np.nan, "utm_east": 4e5, "utm_north": 5e6, "agreeing": 1, "error": np.nan}
    assert found.verdict(told, near[:1]) == "estimated at 400000.0 m east, 5000000.0 m north"
    assert "; none of 3 matches agree" in found.verdict(told, near)
    assert "position unknown" in found.verdict({"agreeing": 0}, near)
    (asked,) = found.to_dict()["queries"]
    assert asked["matches"][0]["image"] == matches[0]["image"]
    assert asked["latitude"] == estimate["latitude"]
    assert [distance_text(m) for m in (3.4, 9999, 1e5, np.nan)] == ["3 m", "9,999 m", "100 km", ""]


def test_a_best_match_without_a_position_is_said(model, root):
    """The right photo is found first, but nobody knows where it was taken."""
    found = find(model, root, root / "old" / "unknown.jpg", k=7, radius=15)
    ((estimate, matches),) = found.by_query()
    assert matches[0]["image"].endswith("unknown.jpg") and np.isnan(matches[0]["utm_east"])
    ranks = [match["rank"] for match in matches if match["agrees"]]
    assert 1 not in ranks and 1 < len(ranks) < 6
    start, where = f"rank {', '.join(map(str, ranks))}:", f"{estimate['latitude']:.5f}"
    text = found.verdict(estimate, matches)
    assert text.startswith(f"the best match has no position; a guess by {start} {where}, ")
    assert f"; {len(ranks)} of 7 matches agree within 15 m" in text
