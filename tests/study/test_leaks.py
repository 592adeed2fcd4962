"""Leaks that were planted are found, by each measure, and nothing else is."""

import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn, idctn

from dinomix.data import PlaceDataset, TestSet
from dinomix.figures import look_alikes
from dinomix.images import UnreadableImageError, read_image
from dinomix.model import ModelConfig, build_model
from dinomix.retrieval import describe
from dinomix.study import leaks
from dinomix.study.leaks import Images, audit, fingerprint, named_images, open_images
from tests.conftest import write_places


def write_photo(path, rng, side=96):
    """Details of all sizes, the coarse ones strongest, as in photographs."""
    waves = rng.normal(size=(3, side, side)) / (1 + np.add.outer(np.arange(side), np.arange(side)))
    pixels = idctn(waves, axes=(1, 2))
    pixels = 128 + 50 * (pixels - pixels.mean()) / pixels.std()
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    image.save(path, quality=95)


def save_copy(source, target, scale=1.0, quality=95):
    image = Image.open(source)
    size = round(scale * image.width), round(scale * image.height)
    image.resize(size, Image.Resampling.BICUBIC).save(target, quality=quality)


def name(east, north, label):
    return f"@{east:.2f}@{north:.2f}@31@T@@@{label}@.jpg"


@pytest.fixture
def planted(tmp_path):
    """Training images and a test set, places 1 km apart, some of whose images are in both."""
    rng, training = np.random.default_rng(0), tmp_path / "train"
    for part, east in (("database", 400_000), ("queries", 400_010), ("train", 500_000)):
        for i in range(6):
            write_photo(tmp_path / part / name(east + 1000 * i, 5e6, f"{part}{i}"), rng)
    test = TestSet(tmp_path)
    shutil.copy(test.queries[0], training / "copy.jpg")
    save_copy(test.queries[1], training / "recompressed.jpg", quality=40)
    save_copy(test.queries[2], training / "small.png", scale=0.5)
    save_copy(test.database[3], training / "large.jpg", scale=2, quality=80)
    write_photo(training / name(405_000, 5e6 + 24.8, "near"), rng)
    write_photo(training / name(402_000, 5e6 + 25.2, "beyond"), rng)
    shutil.copy(test.queries[4], tmp_path / "database" / name(460_000, 5e6, "asked"))
    return open_images(training), TestSet(tmp_path)


EXPECTED = {
    ("same picture", "queries0", "queries", "copy.jpg", "training"),
    ("same picture", "queries4", "queries", "asked", "database"),
    ("same picture", "queries1", "queries", "recompressed.jpg", "training"),
    ("same picture", "queries2", "queries", "small.png", "training"),
    ("same picture", "database3", "database", "large.jpg", "training"),
    ("near", "database5", "database", "near", "training"),
}


def pairs(table):
    """As above: of names in the UTM layout the label."""

    def label(path):
        return path.name.split("@")[-2] if "@" in path.name else path.name

    kinds = table["finding"].astype(str), table["image"].map(label), table["part"]
    rows = list(zip(*kinds, table["other"].map(label), table["other_part"], strict=True))
    assert len(set(rows)) == len(rows)
    return set(rows)


def test_planted_leaks_are_found_and_nothing_else(planted):
    table = audit(*planted, progress=False)
    assert pairs(table) == EXPECTED and list(table)[:2] == ["finding", "image"]
    assert table["finding"].is_monotonic_increasing  # the worst first
    assert table["similarity"].isna().all()
    near = table.set_index(table["finding"].astype(str)).loc["near"]
    assert near["metres"] == pytest.approx(24.8, rel=0.006) and near["bits"] > 32
    for row in table.itertuples():
        bits = [np.unpackbits(fingerprint(path)) for path in (row.image, row.other)]
        assert row.bits == np.sum(bits[0] != bits[1])
    axes = look_alikes(table, 3).axes
    assert len(axes) == 2 * 3 and axes[0].get_title() == "queries\nsame picture"
    shown = axes[3].images[0].get_array()
    np.testing.assert_array_equal(shown, np.asarray(read_image(table["other"][0])))


def test_descriptors_find_what_other_measures_do_not(planted):
    training, test = planted
    config = ModelConfig(backbone="toy_resnet", image_size=96, aggregator="gem")
    model = build_model(config, weights="hub").eval()
    parts = [
        ("queries", "training", test.queries, training.paths),
        ("database", "training", test.database, training.paths),
        ("queries", "database", test.queries, test.database),
    ]
    slowly = {}
    for part, other_part, asked, others in parts:
        a, b = (describe(model, paths, progress=False) for paths in (asked, others))
        for i, image in enumerate(asked):
            for j in np.argsort(-(b @ a[i]))[: leaks.MOST]:
                slowly[image, part, others[j], other_part] = a[i] @ b[j]
    least = float(np.median(list(slowly.values())))
    table = audit(training, test, model, similarity=least, progress=False, device="cpu")
    assert {row for row in pairs(table) if row[0] not in ("alike", "near")} == {
        row for row in EXPECTED if row[0] != "near"
    }
    keys = ["image", "part", "other", "other_part"]
    given = dict(zip(map(tuple, table[keys].to_numpy()), table["similarity"], strict=True))
    alike = {key: value for key, value in slowly.items() if value >= least}
    assert alike.keys() <= given.keys() and len(alike) > 10
    assert all(given[key] == pytest.approx(value, abs=1e-5) for key, value in alike.items())
    found = table["similarity"][table["finding"] == "alike"]
    assert (found >= least).all() and found.is_monotonic_decreasing


def test_a_set_is_all_that_it_holds_itself(planted):
    _, test = planted
    whole = named_images([*test.database, *test.queries])
    table = audit(whole, test, progress=False)
    same = table[(table["finding"] == "same picture") & (table["other_part"] == "training")]
    assert set(same["image"]) == set(whole.paths) and (same["metres"] >= 0).all()


def test_a_fingerprint_is_what_the_cosine_transform_says(tmp_path):
    write_photo(tmp_path / "a.jpg", np.random.default_rng(0), 64)
    grey = np.asarray(Image.open(tmp_path / "a.jpg").convert("L"), float)
    at = (np.arange(64) + 0.5) * np.pi / 64
    basis = np.cos(np.arange(16)[:, None] * at)  # (16, 64)
    scale = np.where(np.arange(16) == 0, np.sqrt(1 / 64), np.sqrt(2 / 64))
    waves = (scale[:, None] * basis) @ grey @ (scale[:, None] * basis).T
    np.testing.assert_allclose(waves, dctn(grey, norm="ortho")[:16, :16], atol=1e-8)
    expected = (waves > np.median(waves)).ravel()
    assert np.unpackbits(fingerprint(tmp_path / "a.jpg")).astype(bool).tolist() == expected.tolist()


def test_training_places_lie_where_their_table_says(tmp_path):
    root = write_places(tmp_path / "places", places=2, images=3)
    images, places = open_images(root), PlaceDataset(root, images_per_place=2)
    assert images.paths == places.paths and images.points.shape == (6, 3)
    for point, (lat, lon) in zip(images.points, places.latlon, strict=True):
        assert np.degrees(np.arcsin(point[2] / leaks.RADIUS)) == pytest.approx(lat)
        assert np.degrees(np.arctan2(point[1], point[0])) == pytest.approx(lon)
    assert f"_{places.latlon[4][0]:.4f}_{places.latlon[4][1]:.3f}_" in images.paths[4].name


def test_positions_across_zones_and_unknown_ones(tmp_path):
    """6 degrees east is the border of zones 31 and 32; a map of one's own lies nowhere."""
    zones = ("@734980.00@5000000.00@31@T@", "@265000.00@5000000.00@32@T@", "@1.00@2.00@@@", "a")
    images = named_images([tmp_path / f"{zone}@@x@.jpg" for zone in zones])
    apart = np.linalg.norm(images.points[0] - images.points[1])
    assert np.isnan(images.points[2:]).all() and apart < 25_000
    south = named_images([tmp_path / "@500000.00@5000000.00@31@H@@@@.jpg"])
    assert south.points[0, 2] < 0


def test_where_positions_are_unknown_pictures_are_compared(planted):
    training, test = planted
    unknown = Images(training.paths, np.full_like(training.points, np.nan))
    rest = {row for row in EXPECTED if row[0] != "near"}
    with pytest.warns(UserWarning, match=r"those of \['training'\] are unknown"):
        assert pairs(audit(unknown, test, progress=False)) == rest
    frames = TestSet.from_lists("line", test.database, test.queries, None, None, unit="frames")
    assert pairs(audit(training, frames, progress=False)) == rest


@pytest.mark.parametrize("limit", [{"bits": 257}, {"bits": -1}, {"similarity": 95}])
def test_limits_that_would_find_all_or_nothing(planted, limit):
    ((name, value),) = limit.items()
    with pytest.raises(ValueError, match=f"{name} {value}"):
        audit(*planted, **limit)


def test_damaged_and_missing_images_are_named(planted, tmp_path):
    training, test = planted
    training.paths[2].write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=training.paths[2].name[:12]):
        audit(training, test, progress=False)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_images(tmp_path / "nowhere")
