from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dinomix import confidence
from dinomix.data import TestSet
from dinomix.evaluation import (
    Retrieval,
    evaluate,
    hits,
    judge,
    positives,
    recall_at_k,
    retrieve,
    retrieve_described,
)
from dinomix.model import ModelConfig, build_model
from dinomix.retrieval import SkippedImageWarning, describe
from dinomix.statistics import bootstrap
from tests.conftest import write_image


def slow_positives(database, queries, threshold):
    found = []
    for q in queries:
        inside = [i for i, d in enumerate(database) if np.hypot(*(q - d)) <= threshold]
        found.append(inside)
    return found


@pytest.mark.parametrize(("n", "q"), [(40, 25), (1, 3), (3, 1)])
def test_positives_equal_a_slow_loop(n, q):
    rng = np.random.default_rng(n + q)
    database, queries = rng.uniform(0, 100, (n, 2)), rng.uniform(0, 100, (q, 2))
    found = positives(database, queries, 25.0)
    assert [list(indices) for indices in found] == slow_positives(database, queries, 25.0)


@pytest.mark.parametrize("threshold", ["25", np.nan, -1, True])
def test_a_threshold_that_is_no_distance(threshold):
    with pytest.raises(ValueError, match=r"threshold is .*should be a number from 0 on"):
        positives(np.zeros((1, 2)), np.zeros((1, 2)), threshold)


def test_threshold_counts_as_inside_and_without_positions_there_is_nothing():
    database = np.array([[4e5, 5e6], [4e5 + 25, 5e6], [4e5 + 25.01, 5e6]])
    assert positives(database, database[:1], 25.0)[0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="unknown where"):
        positives(None, None, 25.0)


def test_recall_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(30)[:10] for _ in range(50)])
    truth = [rng.choice(30, size=rng.integers(0, 4), replace=False) for _ in range(50)]
    for k, recall in recall_at_k(ranked, truth, (1, 3, 10, 99)).items():
        right = sum(
            any(int(i) in set(t.tolist()) for i in row[:k])
            for row, t in zip(ranked, truth, strict=True)
        )
        assert recall == pytest.approx(100 * right / 50)


def test_queries_without_positives_are_failures_and_no_queries_nan():
    ranked = np.array([[0, 1], [1, 0]])
    truth = [np.array([1]), np.array([], dtype=np.int64)]
    assert recall_at_k(ranked, truth, (1, 2)) == {1: 0.0, 2: 50.0}
    assert hits(ranked, truth).tolist() == [[False, True], [False, False]]
    assert np.isnan(recall_at_k(np.empty((0, 5), int), [], (1,))[1])
    # -1, where nothing is found, is nobody's image: neither the last one nor the query's before
    assert not hits(np.array([[1], [-1], [-1]]), [[0], [1], []]).any()
    with pytest.raises(ValueError, match="2 rankings for the positives of 1"):
        hits(ranked, truth[:1])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(
        ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8, out_rows=2)
    )


def test_evaluate_gives_a_tidy_table(model, test_root):
    far = test_root / "images" / "test" / "queries_night"
    lost = sorted(far.iterdir())[0]
    lost.rename(far / lost.name.replace("@400005.00", "@900000.00"))
    test = TestSet(test_root)
    table = evaluate(model, test, ks=(1, 2), batch_size=4, progress=False)
    assert table[["condition", "k"]].values.tolist() == [
        [c, k] for c in ("day", "night", "all") for k in (1, 2)
    ]
    assert table["queries"].tolist() == [5, 5, 5, 5, 10, 10]
    assert table["without_positives"].tolist() == [0, 0, 1, 1, 1, 1]
    mean = table[table.condition != "all"].groupby("k")["recall"].mean()
    assert table[table.condition == "all"]["recall"].tolist() == pytest.approx(mean.tolist())
    first = table.iloc[0]
    named = first[["method", "backbone", "dim", "mix_depth", "image_size"]].tolist()
    assert named == ["mix", "toy_vits14", 16, 2, "28 x 28"]
    assert (first.convention, first.dataset) == ("25 m", "city-test")


def test_a_database_used_as_its_own_queries_is_found(model, test_root):
    queries = test_root / "images" / "test"
    for path in (queries / "queries_day").iterdir():
        path.unlink()
    for path in (queries / "database").iterdir():
        (queries / "queries_day" / path.name).write_bytes(path.read_bytes())
    retrieval = retrieve(model, TestSet(test_root), k=1, progress=False)
    assert retrieval.ranked[:5, 0].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(retrieval.similarities[:5, 0], 1, atol=1e-5)
    assert retrieval.table((1,)).set_index("condition").recall["day"] == 100


def test_unlabelled_images_are_retrieved_but_not_judged(model, test_root, monkeypatch):
    test = TestSet(test_root)
    bare = TestSet.from_lists("bare", test.database, test.queries, None, None)
    retrieval = retrieve(model, bare, k=2, progress=False)
    expected = retrieve(model, test, k=2, progress=False).ranked
    np.testing.assert_array_equal(retrieval.ranked, expected)
    assert retrieval.positives is None
    monkeypatch.setattr("dinomix.evaluation.describe", None)  # it would fail, if it were called
    for judged in (retrieval.table, lambda: evaluate(model, bare, progress=False)):
        with pytest.raises(ValueError, match=r"bare: it is unknown where .*retrieve works"):
            judged()
    with pytest.raises(ValueError, match=r"level is 95; it should lie between 0 and 1"):
        evaluate(model, TestSet(test_root), interval=95)


def test_a_described_database_is_not_described_again(model, test_root, monkeypatch):
    test = TestSet(test_root)
    expected = evaluate(model, test, progress=False)
    database, described = describe(model, test.database, progress=False), []

    def noting(model, paths, **options):
        described.append(paths)
        return describe(model, paths, **options)

    monkeypatch.setattr("dinomix.evaluation.describe", noting)
    pd.testing.assert_frame_equal(
        evaluate(model, test, database=database, progress=False), expected
    )
    assert described == [test.queries]
    with pytest.raises(ValueError, match="3 descriptors of the 5 database images"):
        evaluate(model, test, database=database[:3], ks=[1], progress=False)


@pytest.mark.parametrize("ks", [np.array([1, 2]), torch.tensor([1, 2]), range(1, 3)], ids=repr)
def test_ks_and_sizes_of_any_library(model, test_root, ks):
    test = TestSet(test_root, threshold=np.float32(25))
    options = {"batch_size": np.int64(3), "workers": np.int64(0), "progress": False}
    table = evaluate(model, test, ks, **options)
    assert table.equals(evaluate(model, TestSet(test_root), (1, 2), progress=False))
    retrieval = retrieve(model, test, np.int64(2), **options)
    assert retrieval.table(ks).equals(retrieval.table((1, 2)))
    assert {type(k) for k in recall_at_k(retrieval.ranked, retrieval.positives, ks)} == {int}


@pytest.mark.parametrize("ks", [[], [0], "15", 5, np.array([1.5])], ids=repr)
def test_wrong_ks_and_sizes_are_told_before_images_are_described(model, test_root, monkeypatch, ks):
    test = TestSet(test_root)
    with pytest.raises(ValueError, match="batch_size is '4'"):
        evaluate(model, test, batch_size="4")
    monkeypatch.setattr("dinomix.evaluation.describe", None)  # it would fail, if it were called
    with pytest.raises(ValueError, match=r"ks is .*(list|whole number from 1 on)"):
        evaluate(model, test, ks)
    with pytest.raises(ValueError, match=r"k is 2\.0"):
        retrieve(model, test, 2.0)


@pytest.mark.parametrize("threshold", [-1, "25", np.nan, True])
def test_an_impossible_threshold_is_told(test_root, threshold):
    for opening in (
        partial(TestSet, test_root),
        partial(TestSet.from_lists, "", [], [], None, None),
    ):
        with pytest.raises(ValueError, match="threshold is"):
            opening(threshold=threshold)


def test_queries_of_mixed_sizes_do_not_depend_on_their_batch(model, test_root):
    """As in Tokyo 24/7, where phones were held either way."""
    rng = np.random.default_rng(3)
    sizes = [(28, 28), (60, 40), (40, 60), (33, 71), (120, 16)]
    queries = sorted((test_root / "images" / "test" / "queries_night").iterdir())
    for path, size in zip(queries, sizes, strict=True):
        write_image(path, rng, size)
    test = TestSet(test_root)
    alone = np.concatenate([describe(model, [path], progress=False) for path in test.queries])
    tables = []
    for batch_size in (1, 3, 64):
        options = {"batch_size": batch_size, "progress": False}
        together = describe(model, test.queries, **options)
        np.testing.assert_allclose(together, alone, atol=1e-6)
        tables.append(evaluate(model, test, ks=(1, 2), **options))
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])


def retrieval(unit="m", labelled=True, k=4, seed=0):
    """Of 30 images 10 apart; query 3 found nothing, query 0 stands where nothing is."""
    rng = np.random.default_rng(seed)
    names = [
        [Path(f"{kind}{i}.jpg") for i in range(count)] for kind, count in (("d", 30), ("q", 9))
    ]
    utm = [rng.integers(0, 12, (30, 2)) * 10.0, rng.integers(0, 12, (9, 2)) * 10.0]
    utm[1][0] = 9999
    options = {"unit": unit, "conditions": ["day", "night", "day"] * 3}
    test = TestSet.from_lists("made", *names, *(utm if labelled else [None] * 2), **options)
    ranked = np.stack([rng.permutation(30)[:k] for _ in range(9)])
    similarities = -np.sort(-rng.random((9, k)).astype(np.float32), axis=1)
    truth = positives(*utm, 25.0)
    for query in (1, 2, 5):
        ranked[query, 0] = truth[query][0]
    ranked[3], similarities[3] = -1, -np.inf
    return Retrieval(test, ranked, similarities, truth if labelled else None)


def test_a_row_a_query_equals_a_slow_loop():
    made, ranks = retrieval(), []
    found, test = made.queries(), made.test
    for i, row in found.iterrows():
        first = [r + 1 for r, d in enumerate(made.ranked[i]) if d in made.positives[i].tolist()]
        ranks.append(first[0] if first else pd.NA)
        apart = np.hypot(*(test.database_utm[made.ranked[i, 0]] - test.query_utm[i]))
        assert row["error_m"] == pytest.approx(apart) if i != 3 else np.isnan(row["error_m"])
        assert row["positives"] == len(made.positives[i])
    assert found["rank"].isna().any() and found["rank"].tolist() == pd.array(ranks).tolist()
    assert found["rank"].dtype == found["positives"].dtype == "Int64"
    assert found["query"].tolist() == [f"q{i}.jpg" for i in range(9)]
    assert found["condition"].tolist() == ["day", "night", "day"] * 3
    np.testing.assert_array_equal(found["similarity"], made.similarities[:, 0])
    places = np.array(
        [[test.database_utm[d] if d >= 0 else [np.nan] * 2 for d in row] for row in made.ranked]
    )
    for name in ("margin", "spread"):
        expected = confidence.METHODS[name](made.similarities, places, 25.0)
        np.testing.assert_array_equal(found[f"confidence_{name}"], expected)
        np.testing.assert_array_equal(made.confidence(name), expected)


def test_the_curve_is_that_of_first_matches():
    made, curve = retrieval(), retrieval().precision_recall("margin")
    right = [d in truth for d, truth in zip(made.ranked[:, 0], made.positives, strict=True)]
    answerable = [len(truth) > 0 for truth in made.positives]
    assert any(right) and not answerable[0]
    expected = confidence.precision_recall(
        made.confidence("margin"), *map(np.array, (right, answerable))
    )
    pd.testing.assert_frame_equal(curve, expected)
    assert curve["answered"].max() == 8 / 9
    for name in confidence.METHODS:  # as of a stored table
        of_table = confidence.curve_of(made.queries(), name)
        pd.testing.assert_frame_equal(of_table, made.precision_recall(name))


@pytest.mark.parametrize(("unit", "k"), [("m", 4), ("frames", 1)])
def test_recall_over_thresholds_is_that_of_test_sets_with_them(unit, k):
    made = retrieval(unit)
    found = made.recall_by_threshold([0, 20, 25, 100], [k])
    assert set(found["unit"]) == {unit} and set(found["condition"]) == {"day", "night", "all"}
    for threshold, rows in found.groupby("threshold"):
        truth = positives(made.test.database_utm, made.test.query_utm, threshold)
        table = Retrieval(made.test, made.ranked, made.similarities, truth).table([k])
        assert rows["recall"].tolist() == table["recall"].tolist()


def test_median_errors():
    made = retrieval()
    errors = made.queries()["error_m"].fillna(np.inf)  # of what found nothing
    expected = {"day": errors[[0, 2, 3, 5, 6, 8]].median(), "night": errors[[1, 4, 7]].median()}
    assert made.median_error() == expected | {"all": errors.median()}
    made.ranked[:] = -1
    assert made.median_error() == dict.fromkeys(["day", "night", "all"], np.inf)
    assert retrieval("frames").median_error() == {} == retrieval(labelled=False).median_error()


@pytest.mark.parametrize(
    ("made", "missing"),
    [
        (retrieval(labelled=False), ["rank", "positives", "error_m", "margin", "spread"]),
        (retrieval("places"), ["error_m", "spread"]),
        (retrieval("frames"), ["error_m"]),
        (retrieval(k=1), ["margin", "spread"]),
    ],
    ids=["unlabelled", "places", "frames", "one match"],
)
def test_what_cannot_be_known_is_missing(made, missing):
    found = made.queries().rename(columns=lambda name: name.removeprefix("confidence_"))
    assert [name for name in found if found[name].isna().all()] == sorted(
        missing, key=list(found).index
    )
    for name in {"margin", "spread"} & set(missing):
        with pytest.raises(ValueError, match=f"made: no {name}, for it takes positions"):
            made.confidence(name)


def test_what_a_retrieval_cannot_say_is_told():
    with pytest.raises(ValueError, match="no confidence 'margins'; did you mean 'margin'"):
        retrieval().confidence("margins")
    for judged in ("precision_recall", "recall_by_threshold"):
        with pytest.raises(ValueError, match="made: it is unknown where"):
            getattr(retrieval(labelled=False), judged)()
    with pytest.raises(ValueError, match="made knows places"):
        retrieval("places").recall_by_threshold()
    assert np.isnan(retrieval("places").distances()).all()
    with pytest.raises(ValueError, match="threshold is -1"):
        retrieval().recall_by_threshold([-1])
    with pytest.raises(ValueError, match="too few for recall@5"):
        retrieval().recall_by_threshold(ks=[5])


def test_a_database_of_damaged_images_finds_nothing():
    test = retrieval().test
    unread, descriptors = np.full((30, 2), np.nan, np.float32), np.eye(9, 2, dtype=np.float32)
    found = retrieve_described(test, unread, descriptors, 5)
    assert found.queries()["rank"].isna().all() and found.precision_recall().empty
    assert found.table((1, 5))["recall"].eq(0).all()


def test_what_is_evaluated_can_be_looked_at(model, test_root):
    table, found = judge(model, TestSet(test_root), [1], progress=False)
    assert found.ranked.shape[1] == 5  # all there are, of ten
    assert table.equals(evaluate(model, TestSet(test_root), [1], progress=False))
    error = np.median(found.queries()["error_m"])
    assert table.attrs["median_error"]["all"] == error
    assert f"median error over all queries {error:.1f} m" in repr(table[table["k"] == 1])


def test_a_table_with_intervals_over_groups(model, test_root):
    test = TestSet(test_root)
    found = retrieve(model, test, 2, progress=False)
    table, plain = found.table((1, 2), 0.9), found.table((1, 2))
    assert table.drop(columns=["low", "high"]).equals(plain)
    asked = found.queries()
    assert asked["group"].tolist() == test.groups
    for row in table.itertuples():
        chosen = asked if row.condition == "all" else asked[asked["condition"] == row.condition]
        right = (chosen["rank"] <= row.k).fillna(False)
        ends = bootstrap(right, chosen["group"], level=0.9)
        assert (row.low, row.high) == pytest.approx([100 * end for end in ends])
    whole = evaluate(model, test, (1, 2), interval=0.9, progress=False)
    assert whole[["low", "high"]].equals(table[["low", "high"]])


def read_pairs(file):
    """As hloc's parse_retrieval and COLMAP's ReadImagePairsText do."""
    pairs = [line.split(" ") for line in file.read_text().splitlines() if line[0] != "#"]
    assert all(len(pair) == 2 for pair in pairs)
    return [tuple(pair) for pair in pairs]


def test_pairs_for_local_matching(tmp_path):
    found = retrieval()
    found.test.database[int(found.ranked[1, 0])] = found.test.queries[1]  # asks for itself
    here = Path().absolute()
    for k, root, prefix in ((2, None, ""), (None, here.parent, f"{here.name}/")):
        expected = []
        for query, rows in zip(found.test.queries, found.ranked[:, :k], strict=True):
            for row in rows:
                if row >= 0 and found.test.database[row] != query:
                    names = query.name, found.test.database[row].name
                    expected.append(tuple(prefix + name for name in names))
        with pytest.warns(SkippedImageWarning, match="1 damaged queries"):
            found.pairs(tmp_path / "new" / "pairs.txt", k, root)
        assert read_pairs(tmp_path / "new" / "pairs.txt") == expected and len(expected) > 10


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("d0.jpg", {"k": 5}, "4 were retrieved for each query, fewer than k = 5"),
        ("d0.jpg", {"k": 0}, "k"),
        ("d0.jpg", {"root": "elsewhere"}, "outside of the image root .*elsewhere"),
        ("a b.jpg", {}, "cannot name 'a b.jpg'"),
        ("#1.jpg", {}, "cannot name '#1.jpg'"),
    ],
)
def test_pairs_that_cannot_be_written(tmp_path, name, options, message):
    found = retrieval()
    found.test.database[0] = Path(name)
    with pytest.raises(ValueError, match=message):
        found.pairs(tmp_path / "pairs.txt", **options)
    assert not list(tmp_path.iterdir())
