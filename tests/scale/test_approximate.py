"""Approximate indexes: exact where they keep everything, honest about what they lose."""

import faiss
import numpy as np
import pytest

from dinomix import ApproximateIndex, search

D = 16


@pytest.fixture(scope="module")
def places():
    """Database (2000, D) of 200 places, 10 images each, and a query near every tenth image."""
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(200, D)), 10, axis=0)
    database = unit(centres + 0.3 * rng.normal(size=centres.shape))
    queries = unit(database[::10] + 0.1 * rng.normal(size=(200, D)))
    return database, queries


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def share_found(ranked, exact):
    return np.mean([np.isin(e, r).mean() for e, r in zip(exact, ranked, strict=True)])


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW16,Flat"])
def test_an_index_that_loses_nothing_equals_search(places, factory):
    database, queries = places
    index = ApproximateIndex.build(database, factory, block_bytes=100 * D * 4)
    everything = {"IVF8,Flat": "nprobe=8", "HNSW16,Flat": "efSearch=2000"}.get(factory, "")
    similarities, ranked = index.search(queries, 5, parameters=everything)
    expected, exact = search(database, queries, 5)
    assert share_found(ranked, exact) > 0.999
    np.testing.assert_allclose(similarities, expected, atol=1e-5)
    assert similarities.dtype == np.float32 and ranked.dtype == np.int64


def test_more_cells_find_more(places):
    database, queries = places
    exact = search(database, queries, 5)[1]
    index = ApproximateIndex.build(database, "IVF32,Flat")
    found = [
        share_found(index.search(queries, 5, parameters=f"nprobe={n}")[1], exact)
        for n in (1, 4, 32)
    ]
    assert found[0] < found[1] < found[2] == 1


def test_comparing_candidates_again_gives_exact_similarities_and_finds_more(places, tmp_path):
    database, queries = places
    np.save(tmp_path / "database.npy", database)
    on_disk = np.load(tmp_path / "database.npy", mmap_mode="r")
    exact = search(database, queries, 5)[1]
    index = ApproximateIndex.build(on_disk, "PQ4x4")
    rough, ranked = index.search(queries, 5)
    again, closer = index.search(queries, 5, database=on_disk, candidates=50)
    assert share_found(closer, exact) > share_found(ranked, exact) + 0.2
    slowly = [[float(queries[i] @ database[j]) for j in row] for i, row in enumerate(closer)]
    np.testing.assert_allclose(again, slowly, atol=1e-6)
    assert (np.diff(again, axis=1) <= 0).all()
    assert np.abs(rough - again).max() > 0.01  # the index's own similarities are coarse


def test_bytes_equal_a_loop_and_learn_from_others_alone(places):
    database, queries = (part[:30] for part in places)
    training = unit(np.random.default_rng(5).normal(size=(50, D)))
    index = ApproximateIndex.build(database, "SQ8", learn_from=training)
    assert index.bytes_per_image == D
    low, high = training.min(axis=0), training.max(axis=0)
    expected = np.zeros((30, 30))
    for row, descriptor in enumerate(database):
        for entry, value in enumerate(descriptor):
            share = (value - low[entry]) / (high[entry] - low[entry])
            code = int(255 * min(max(share, 0), 1))
            kept = low[entry] + (code + 0.5) / 255 * (high[entry] - low[entry])
            expected[:, row] += queries[:, entry] * kept
    similarities, ranked = index.search(queries, 30)
    np.testing.assert_allclose(np.take_along_axis(expected, ranked, 1), similarities, atol=1e-5)


def test_bits_are_compared_by_how_many_differ(places):
    database, queries = places
    training = unit(np.random.default_rng(5).normal(size=(51, D)) + 1)  # odd: a median is an entry
    index = ApproximateIndex.build(database, "LSHt", learn_from=training)
    assert index.bytes_per_image == D // 8
    bits = [np.packbits(part >= np.median(training, axis=0), axis=1) for part in places]
    similarities, ranked = index.search(queries, 20)
    for i, (row, found) in enumerate(zip(ranked, similarities, strict=True)):
        differ = [int(np.unpackbits(bits[0][j] ^ bits[1][i]).sum()) for j in range(len(database))]
        assert [-differ[j] for j in row] == found.tolist()
        assert sorted(differ)[:20] == [differ[j] for j in row]
    exact = search(database, queries, 5)[1]
    again = index.search(queries, 5, database=database, candidates=200)[1]
    assert share_found(again, exact) > share_found(ranked[:, :5], exact)
    lost = queries.copy()
    lost[0, 3] = np.nan
    similarities, ranked = index.search(lost, 2500)
    assert (ranked[0] == -1).all() and (similarities[0] == -np.inf).all()
    assert (ranked[1:] >= 0).all()


@pytest.mark.parametrize("again", [False, True])
def test_neighbours_that_were_not_found_are_minus_one(places, again):
    database, queries = places
    index = ApproximateIndex.build(database, "IVF64,Flat")
    k = 500  # one cell has fewer
    similarities, ranked = index.search(
        queries, k, parameters="nprobe=1", database=database if again else None, candidates=k
    )
    missing = ranked < 0
    assert missing.any() and not missing[:, 0].any()
    assert (similarities[missing] == -np.inf).all() and np.isfinite(similarities[~missing]).all()


def test_more_neighbours_than_images(places):
    database, queries = places
    index = ApproximateIndex.build(database[:3], "Flat")
    assert index.search(queries, 10)[1].shape == (len(queries), 3)
    assert index.search(queries, 10, database=database[:3])[1].shape == (len(queries), 3)
    assert len(index) == 3
    many = {"k": np.int64(10), "candidates": np.int64(10), "database": database[:3]}
    assert index.search(queries, **many)[1].shape == (len(queries), 3)


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "PCA8,HNSW16,Flat"])
@pytest.mark.parametrize("again", [False, True])
def test_images_without_a_descriptor_are_never_found(places, factory, again):
    database, queries = (part.copy() for part in places)
    skipped = [0, 7, 1999]
    database[skipped, 5], queries[3, 5] = np.nan, np.nan  # one of 16 entries is enough
    index = ApproximateIndex.build(database, factory, block_bytes=300 * D * 4)
    assert len(index) == 1997
    similarities, ranked = index.search(
        queries, 2000, database=database if again else None, candidates=2000
    )
    assert not np.isin(ranked, skipped).any() and not np.isnan(similarities).any()
    assert (ranked[3] == -1).all() and (similarities[3] == -np.inf).all()
    assert (ranked[:3, 0] >= 0).all()
    if factory == "Flat":
        np.testing.assert_array_equal(np.sort(ranked[0]), np.delete(np.arange(2000), skipped))


def test_what_was_saved_finds_the_same(places, tmp_path):
    database, queries = places
    index = ApproximateIndex.build(database, "PCA8,IVF8,PQ4x4")
    index.save(tmp_path / "city.faiss")
    loaded = ApproximateIndex.load(tmp_path / "city.faiss")
    assert len(loaded) == len(database)
    for a, b in zip(index.search(queries), loaded.search(queries), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [file.name for file in tmp_path.iterdir()] == ["city.faiss"]


def test_the_same_seed_builds_the_same_index(places, tmp_path):
    for name in "ab":
        ApproximateIndex.build(places[0], "IVF8,PQ4x4", training=500, seed=3).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_errors_name_what_is_wrong(places, tmp_path):
    database, queries = places
    index = ApproximateIndex.build(database, "Flat")
    index.save(tmp_path / "half.faiss")
    (tmp_path / "half.faiss").write_bytes((tmp_path / "half.faiss").read_bytes()[:1000])
    faiss.write_index(faiss.IndexFlatIP(D), str(tmp_path / "other.faiss"))
    build, load = ApproximateIndex.build, ApproximateIndex.load
    for words, call in (
        ("'Nonsense'", lambda: build(database, "Nonsense")),
        ("'PQ5'.*multiple", lambda: build(database, "PQ5")),
        ("'IDMap,Flat'.*add_with_ids", lambda: build(database, "IDMap,Flat")),  # filled by us
        ("'NSG8'.*smaller", lambda: build(database, "NSG8", block_bytes=50 * D * 4)),  # all at once
        ("index 16 .*Wrong", lambda: build(database, 16)),
        ("training is 0", lambda: build(database, "Flat", training=0)),
        ("training is 50.0", lambda: build(database, "Flat", training=50.0)),
        ("from 3 descriptors", lambda: build(database[:3], "IVF8,Flat")),
        (r"\(0, 16\)", lambda: build(database[:0], "Flat")),
        (r"\(200, 8\).*\(Q, 16\)", lambda: index.search(queries[:, :8])),
        ("'nprobe=0'", lambda: build(database, "IVF2,Flat").search(queries, parameters="nprobe=0")),
        ("k is 0", lambda: index.search(queries, 0)),
        ("candidates is '9'", lambda: index.search(queries, candidates="9")),
        ("'nprobe=4'", lambda: index.search(queries, parameters="nprobe=4")),
        (r"2000 .*\(1999, 16\)", lambda: index.search(queries, database=database[1:])),
        (r"learn_from is \(50, 8\)", lambda: build(database, "Flat", learn_from=database[:50, :8])),
        ("bytes_per_image is not known", lambda: build(database, "HNSW8").bytes_per_image),
        (r"half\.faiss holds no whole", lambda: load(tmp_path / "half.faiss")),
        (r"other\.faiss.*did not write", lambda: load(tmp_path / "other.faiss")),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(FileNotFoundError, match=r"none\.faiss"):
        load(tmp_path / "none.faiss")
