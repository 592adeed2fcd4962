"""Shares of attention against slow loops."""

import math

import numpy as np
import pandas as pd
import pytest

from dinomix.attention.shares import class_shares, share_change
from tests.attention.test_heatmaps import bilinear_slowly


def test_class_shares_equal_a_slow_loop():
    rng = np.random.default_rng(0)
    heat = rng.random((2, 3, 4)).astype(np.float32)
    classes = rng.integers(0, 3, (2, 6, 10)).astype(np.uint8)  # of four classes, one is nowhere
    names = ("sky", "building", "road", "person")
    table = class_shares(heat, classes, names)
    assert list(table.columns) == ["image", "class", "share", "area", "gain"]
    assert list(zip(table["image"], table["class"], strict=True)) == [
        (image, name) for image in range(2) for name in names
    ]
    for row in table.itertuples(index=False):
        image, name, share, area, gain = row
        picture, label = bilinear_slowly(heat[image], 6, 10), names.index(name)
        on = [(i, j) for i in range(6) for j in range(10) if classes[image, i, j] == label]
        assert share == pytest.approx(sum(picture[at] for at in on) / picture.sum(), abs=1e-6)
        assert area == len(on) / 60
        if on:
            assert gain == pytest.approx(share / area)
        else:
            assert math.isnan(gain)
    np.testing.assert_allclose(table.groupby("image")["share"].sum(), 1)


def test_shares_of_even_heat_are_areas_and_without_heat_they_are_unknown():
    classes = np.array([[[0, 0, 0, 1]]] * 2)
    heat = np.stack([np.full((1, 2), 7.0), np.zeros((1, 2))])
    table = class_shares(heat, classes, ["a", "b"])
    np.testing.assert_allclose(table["share"], [0.75, 0.25, np.nan, np.nan])
    np.testing.assert_allclose(table["area"], [0.75, 0.25] * 2)
    np.testing.assert_allclose(table["gain"], [1, 1, np.nan, np.nan])


def test_class_shares_errors():
    heat, classes = np.ones((2, 3, 3)), np.zeros((2, 6, 6), int)
    for words, *wrong in (
        (r"\(2, 3, 3\) and \(1, 6, 6\)", heat, classes[:1]),
        (r"\(3, 3\) and", heat[0], classes),
        *((f"not {value}", heat * value, classes) for value in (-1.0, np.nan)),
        *((f"{label} to {label}", heat, classes + label) for label in (-1, 1)),
    ):
        with pytest.raises(ValueError, match=words):
            class_shares(*wrong, ["a"])


def shares(*rows):
    names = ["car", "wall"]
    return pd.DataFrame(
        [
            {"image": i, "class": name, "share": share}
            for i, row in enumerate(rows)
            for name, share in zip(names, row, strict=True)
        ]
    )


def test_share_change_is_the_mean_of_the_images():
    before = shares((0.5, 0.5), (0.3, 0.7), (np.nan, np.nan))
    after = shares((0.4, 0.6), (0.0, 1.0), (0.9, 0.1))
    change = share_change(before, after)
    assert change.index.tolist() == ["car", "wall"]
    assert change.loc["car", ["before", "after", "change"]].tolist() == pytest.approx([40, 20, -20])
    # Of two images, a bootstrap draws one of them twice often enough for the ends to be theirs.
    assert change.loc["car", ["low", "high"]].tolist() == pytest.approx([-30, -10])
    assert change.loc["wall", "change"] == pytest.approx(20)


def test_share_change_wants_the_same_images():
    with pytest.raises(ValueError, match="other images or classes"):
        share_change(shares((0.5, 0.5)), shares((0.5, 0.5), (0.3, 0.7)))
