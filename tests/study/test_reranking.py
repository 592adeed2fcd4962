"""A second look against slow loops and OpenCV's own fit; what must not be looked at stays."""

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import dinomix
from dinomix.attention.patches import mutual
from dinomix.evaluation import Retrieval
from dinomix.exchange.foreign import PartError
from dinomix.statistics import paired
from dinomix.study.reranking import PatchScore, gains, rerank, unsure_below, vismatch_score
from tests.conftest import write_image


@pytest.fixture
def retrieval():
    """Four queries of six images; the last found nothing, and the third only two."""
    database, queries = ([Path(f"{kind}{i}") for i in range(6)] for kind in "dq")
    ranked = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [5, 4, -1, -1], [-1, -1, -1, -1]])
    similarities = np.where(ranked < 0, -np.inf, [0.9, 0.8, 0.7, 0.6]).astype(np.float32)
    places = np.arange(12).reshape(6, 2) * 100.0
    test = dinomix.TestSet.from_lists("made", database, queries[:4], places, places[:4])
    return Retrieval(test, ranked, similarities, [np.array([2]), np.array([1]), np.array([4]), []])


def score(query, candidate):
    """The higher the number of an image, the better, in pairs of equals."""
    return int(candidate.name[1:]) // 2


def test_the_first_matches_in_the_order_of_the_score(retrieval):
    before = retrieval.ranked.copy()
    again = rerank(retrieval, score, progress=False)
    assert again.ranked.tolist() == [[2, 3, 0, 1], [3, 2, 1, 0], [5, 4, -1, -1], [-1] * 4]
    assert (again.similarities[0] == np.float32([0.7, 0.6, 0.9, 0.8])).all()
    assert again.similarities[2, 2] == -np.inf and again.positives is retrieval.positives
    assert (retrieval.ranked == before).all()
    two = rerank(retrieval, lambda q, d: -score(q, d), first=2, progress=False)
    assert two.ranked.tolist() == [[0, 1, 2, 3], [3, 2, 1, 0], [5, 4, -1, -1], [-1] * 4]


def test_only_those_asked_for_are_scored(retrieval):
    asked = []
    only = np.array([False, True, False, True])
    again = rerank(
        retrieval,
        lambda q, d: asked.append((q.name, d.name)) or len(asked),
        3,
        only,
        progress=False,
    )
    assert asked == [("q1", "d3"), ("q1", "d2"), ("q1", "d1")]
    assert again.ranked.tolist() == [[0, 1, 2, 3], [1, 2, 3, 0], [5, 4, -1, -1], [-1] * 4]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"first": 0}, "first is 0"),
        ({"only": np.array([0, 2])}, r"only is int64 \(2,\): give each query"),
        ({"only": np.ones(3, bool)}, r"only is bool \(3,\)"),
        ({"score": lambda q, d: np.nan}, r"q0: not all of its scores .*\[nan, nan, nan"),
    ],
)
def test_what_cannot_be_asked(retrieval, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        rerank(retrieval, **{"score": score, "progress": False, **options})


def test_mutual_patches_by_a_slow_loop():
    first, second = torch.randn(5, 3, 4), torch.randn(5, 2, 6)

    def cosine(a, b):
        return float(a @ b / a.norm() / b.norm())

    def best(spot, ours, theirs):
        rows, columns = theirs.shape[1:]
        others = [(r, c) for r in range(rows) for c in range(columns)]
        return max(others, key=lambda at: cosine(ours[:, *spot], theirs[:, *at]))

    expected = []
    for row in range(3):
        for column in range(4):
            there = best((row, column), first, second)
            if best(there, second, first) == (row, column):
                expected.append(([column, row], list(there[::-1])))
    here, there = mutual(first, second)
    assert len(expected) > 1
    assert list(zip(here.tolist(), there.tolist(), strict=True)) == expected


@pytest.fixture(scope="module")
def model():
    config = dinomix.ModelConfig(backbone="toy_vits14", image_size=84, out_channels=8)
    return dinomix.build_model(config, weights="hub").eval()


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, rng, (140, 140))
    whole = Image.open(tmp_path / "a.png")
    Image.fromarray(np.roll(np.asarray(whole), 28, axis=1)).save(tmp_path / "moved.png")
    return [tmp_path / name for name in ("a.png", "b.png", "moved.png")]


def test_patches_that_moved_together_count(model, photos):
    a, b, moved = photos
    compare = PatchScore(model, image_size=140)
    assert compare(a, a) == 100  # of 10 x 10
    assert compare(a, moved) > compare(a, b)
    maps = [model.backbone(dinomix.retrieval.load_images(model, [path]))[0] for path in (a, b)]
    here, there = mutual(*maps)
    _, inside = cv2.estimateAffine2D(
        here.astype(float), there.astype(float), method=cv2.RANSAC, ransacReprojThreshold=1.0
    )
    own = PatchScore(model)(a, b)  # at the model's size, in half precision
    assert own == pytest.approx(int(inside.sum()), abs=2)
    cv2.setRNGSeed(7)
    assert PatchScore(model)(a, b) == own
    assert PatchScore(model, image_size=14)(a, b) == 0  # one patch proves nothing
    write_image(a.with_name("odd.png"), np.random.default_rng(1), (150, 143))
    odd = a.with_name("odd.png")
    assert PatchScore(model, image_size="native")(odd, odd) == 100  # of 140 x 140 pixels


def test_a_map_is_computed_once_and_the_oldest_goes(model, photos, monkeypatch):
    read = []
    plain = PatchScore._compute
    monkeypatch.setattr(PatchScore, "_compute", lambda s, path: read.append(path) or plain(s, path))
    a, b, moved = photos
    compare = PatchScore(model, kept=2)
    for other in (b, b, moved, b):
        compare(a, other)
    assert read == [a, b, moved, b]
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_a_model_without_maps_is_refused():
    foreign = dinomix.wrap_model(torch.nn.Flatten(), image_size=4)
    with pytest.raises(PartError, match="shows nothing but descriptors"):
        PatchScore(foreign)


def test_vismatch_counts_inliers_of_images_in_0_to_1(monkeypatch, photos):
    asked = {}

    def get_matcher(name, device):
        asked["matcher"] = name, device
        return lambda a, b: (
            asked.update(sizes=(a.shape, b.shape), top=a.max()) or {"num_inliers": 12}
        )

    monkeypatch.setitem(sys.modules, "vismatch", SimpleNamespace(get_matcher=get_matcher))
    assert vismatch_score("sift-lightglue", image_size=64)(*photos[:2]) == 12
    assert asked["matcher"] == ("sift-lightglue", "cpu")
    assert asked["sizes"] == ((3, 64, 64), (3, 64, 64)) and 0 < asked["top"] <= 1


def looked(right, test):
    """A retrieval whose first match is right or wrong, as told."""
    ranked = np.where(right, 0, 1)[:, None]
    return Retrieval(test, ranked, ranked.astype(np.float32), [np.array([0])] * len(right))


def made_looks(seed, count=9):
    rng = np.random.default_rng(seed)
    names = [Path(f"q{i}") for i in range(count)]
    conditions = ["night" if i % 2 else "snow" for i in range(count)]
    places = np.zeros((count, 2))
    test = dinomix.TestSet.from_lists(
        "made", names[:2], names, places[:2], places, conditions=conditions
    )
    right = rng.random((2, count)) < 0.5
    return looked(right[0], test), looked(right[1], test), rng.integers(0, 4, count) / 4, right


def test_the_bound_is_the_best_of_all_bounds():
    for seed in range(20):
        before, after, sure, right = made_looks(seed)

        def total(bound, sure=sure, right=right):
            return np.where(sure < bound, right[1], right[0]).sum()

        bounds = [*sorted(sure), np.inf]
        best = max(total(bound) for bound in bounds)
        expected = next(bound for bound in bounds if total(bound) == best)
        assert unsure_below(sure, before, after) == expected


def test_gains_in_words():
    before, after, _, right = made_looks(3)
    test, places = before.test, np.zeros((2, 2))
    before.test.groups = [path.name for path in before.test.queries]  # each in a place of its own
    *lines, last = gains(before, after).splitlines()
    assert [line.split(":")[0] for line in lines] == ["- snow", "- night"]
    found = paired(right[0], right[1], before.test.groups)
    change = f"{100 * found.difference:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    assert f"({change}, p = {found.p:.2g}): cannot be told from chance" in last
    none, every = looked(np.zeros(9, bool), before.test), looked(np.ones(9, bool), before.test)
    assert gains(none, every).splitlines()[-1].startswith("- all: 0.0 to 100.0 % (+100.0 [")
    assert gains(none, every).endswith("): helps") and gains(every, none).endswith("): harms")
    assert gains(none, none).endswith(", p = 1): cannot be told from chance")
    before.test.groups = ["one place"] * 9  # which proves nothing about others
    assert gains(none, every).endswith(", p = 1): cannot be told from chance")
    others = dinomix.TestSet.from_lists("other", test.database, test.database, places, places)
    for compare in (gains, partial(unsure_below, np.ones(9))):
        with pytest.raises(ValueError, match="made and other ask different queries"):
            compare(before, looked(np.ones(2, bool), others))
    unlabelled = Retrieval(test, before.ranked, before.similarities, None)
    with pytest.raises(ValueError, match="made: it is unknown where"):
        gains(unlabelled, after)
