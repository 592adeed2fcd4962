from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from dinomix.data import TestSet
from dinomix.evaluation import evaluate, hits, positives, recall_at_k, retrieve
from dinomix.model import ModelConfig, build_model
from dinomix.retrieval import describe
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
    for judge in (retrieval.table, lambda: evaluate(model, bare, progress=False)):
        with pytest.raises(ValueError, match=r"bare: it is unknown where .*retrieve works"):
            judge()


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
