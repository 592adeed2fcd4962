"""Properties of parsers, loss, recall and search, on inputs that nobody thought of.

Each is compared with a slow loop or another library. The examples are the same in every run.
"""

import json
import math
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner

from dinomix.data import COLUMNS, read_city
from dinomix.evaluation import hits, positives, recall_at_k
from dinomix.images import as_size
from dinomix.losses import mine_pairs, multi_similarity_loss
from dinomix.plumbing.csvtables import ImageTable
from dinomix.plumbing.positions import MAP_LIMITS, UTM_LIMITS, read_utm
from dinomix.plumbing.settings import parse_overrides, parse_yaml
from dinomix.scale.search import SCANS, search

metres = st.floats(*MAP_LIMITS[0])
# What stands in file names and cells: no separators of either, and nothing that ends a line.
word = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=8)


# --------------------------------------------------------------------------- parsers


@given(st.lists(st.tuples(*(st.floats(*each) for each in UTM_LIMITS)), min_size=1), word)
def test_utm_names_come_back(positions, tail):
    paths = [Path(f"@{east!r}@{north!r}@31@T@{tail}@.jpg") for east, north in positions]
    assert read_utm(paths).tolist() == [list(position) for position in positions]


@given(st.text(st.characters(exclude_characters="/\0"), max_size=30))
def test_any_name_has_coordinates_or_is_refused(name):
    """Two numbers of a map as Python writes them, or a ValueError that shows the name."""
    path = Path(f"@{name}.jpg")
    try:
        ((east, north),) = read_utm([path])
    except ValueError as error:
        assert path.name in str(error)
    else:
        fields = path.name.split("@")
        assert (east, north) == (float(fields[1]), float(fields[2]))
        assert max(abs(east), abs(north)) <= MAP_LIMITS[0][1]


row_of_gsv = st.fixed_dictionaries(
    {
        "place_id": st.integers(0, 2**53 - 1),
        "year": st.integers(1990, 2100),
        "month": st.integers(1, 12),
        "northdeg": st.integers(0, 999),
        "city_id": word,
        "lat": st.floats(-90, 90).map(repr),
        "lon": st.floats(-180, 180).map(repr),
        "panoid": word,
    }
)


@given(
    st.lists(row_of_gsv, min_size=1, max_size=8, unique_by=lambda row: tuple(row.values())),
    st.permutations(COLUMNS),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
@settings(max_examples=30)
def test_gsv_tables_come_back(rows, columns, end, mark):
    lines = [columns, *([str(row[column]) for column in columns] for row in rows)]
    text = end.join(",".join(line) for line in lines)
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "Dataframes").mkdir()
        csv = Path(root) / "Dataframes" / "City.csv"
        csv.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
        found = read_city(Path(root), "City")
    ordered = sorted(rows, key=lambda row: row["place_id"])  # stable, as the docstring says
    names = [
        f"Images/{r['city_id']}/{r['city_id']}_{r['place_id']:07d}_{r['year']}_{r['month']:02d}_"
        f"{r['northdeg']:03d}_{r['lat']}_{r['lon']}_{r['panoid']}.jpg"
        for r in ordered
    ]
    assert [path.decode() for path in found.paths] == names
    np.testing.assert_array_equal(
        found.latlon, [[float(r["lat"]), float(r["lon"])] for r in ordered]
    )
    places = [row["place_id"] for row in ordered]
    assert found.counts.tolist() == [places.count(place) for place in sorted(set(places))]


cell = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=12)


@given(st.lists(st.tuples(word, metres, cell), min_size=1, max_size=6))
@settings(max_examples=40)
def test_image_tables_come_back(rows):
    """Cells in quotes may hold commas, quotes and spaces."""
    quoted = [[f"{image}.jpg", repr(east), text] for image, east, text in rows]
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in quoted]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_text("\n".join(["image,utm_east,condition", *lines]), encoding="utf-8")
        table = ImageTable.read(path)
    assert table.images == [path.parent / image for image, _, _ in quoted]
    assert table.values("utm_east", *MAP_LIMITS[0]).tolist() == [east for _, east, _ in rows]
    assert table.columns["condition"] == [text.strip() for _, _, text in rows]
    assert table.numbers == list(range(2, len(rows) + 2))


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_no_bytes_break_the_readers_of_tables(content):
    """Whatever a table holds, it is read or refused with its name."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "Dataframes"
        folder.mkdir()
        for header in (b"", b"image,utm_east\n", ",".join(COLUMNS).encode() + b"\n"):
            csv = folder / "City.csv"
            csv.write_bytes(header + content)
            for read in (partial(read_city, Path(root), "City"), partial(ImageTable.read, csv)):
                try:
                    read()
                except ValueError as error:
                    assert "City.csv" in str(error)


literals = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abc xyz", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner),
    max_leaves=6,
)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


@given(st.dictionaries(names, literals, max_size=4))
def test_overrides_come_back(values):
    """As JSON, which is YAML: text in quotes, and `1e+16` a number."""
    text = "; ".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    assert parse_overrides(text) == values


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_no_text_breaks_the_parser_of_overrides(text):
    for parse in (parse_overrides, parse_yaml):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)


sides = st.integers(-3, 5000) | st.sampled_from([True, 2.0, "14", None, 10**30])


@given(sides | st.lists(sides, max_size=3) | st.lists(sides, max_size=3).map(tuple))
def test_sizes_are_two_positive_integers_or_refused(size):
    pair = list(size) if isinstance(size, (list, tuple)) else [size, size]
    good = len(pair) == 2 and all(type(side) is int and side >= 1 for side in pair)
    if good:
        assert as_size(size) == tuple(pair)
    else:
        with pytest.raises(ValueError, match="image_size must be"):
            as_size(size)


# --------------------------------------------------------------------------- miner and loss

batches = st.integers(1, 9).flatmap(
    lambda count: st.tuples(
        arrays(np.float32, (count, 3), elements=st.integers(-4, 4).map(float)),
        arrays(np.int64, count, elements=st.integers(0, 3)),
    )
)


def unit(rows):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def slow_miner(similarities, labels, epsilon):
    """Wang et al. 2019, Eqs. 9 and 10, pair by pair."""
    count = len(labels)
    keep_positive, keep_negative = np.zeros((2, count, count), dtype=bool)
    for i in range(count):
        own = [j for j in range(count) if labels[j] == labels[i] and j != i]
        others = [j for j in range(count) if labels[j] != labels[i]]
        if not own or not others:
            continue
        for j in own:
            hardest = max(similarities[i][other] for other in others)
            keep_positive[i, j] = similarities[i][j] - epsilon < hardest
        for j in others:
            hardest = min(similarities[i][one] for one in own)
            keep_negative[i, j] = similarities[i][j] + epsilon > hardest
    return keep_positive, keep_negative


@given(batches, st.sampled_from([0.0, 0.125, 0.5]))
@settings(max_examples=150)
def test_miner_equals_the_slow_loop(batch, epsilon):
    """Similarities are multiples of 1/16, so that ties are ties."""
    rows, labels = batch
    similarities = torch.from_numpy(rows @ rows.T) / 16  # exact in float32
    found = mine_pairs(similarities, torch.from_numpy(labels), epsilon)
    expected = slow_miner(similarities.tolist(), labels, epsilon)
    for mask, pairs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask.numpy(), pairs)


@given(batches)
@settings(max_examples=100)
def test_loss_equals_the_slow_loop_and_pytorch_metric_learning(batch):
    rows, labels = batch
    assume((np.abs(rows).sum(axis=1) > 0).all())  # no descriptor is 0
    desc = torch.from_numpy(rows).double()
    similarities = torch.nn.functional.normalize(desc) @ torch.nn.functional.normalize(desc).T
    edges = similarities[..., None, None] - similarities
    assume(not ((edges.abs() - 0.1).abs() < 1e-9).any())  # rounding decides whom the miner keeps
    ours = multi_similarity_loss(desc, torch.from_numpy(labels)).item()
    keep_positive, keep_negative = slow_miner(similarities.tolist(), labels, 0.1)
    total = 0.0
    for i in range(len(labels)):
        pull = sum(math.exp(-similarities[i, j]) for j in np.flatnonzero(keep_positive[i]))
        push = sum(math.exp(50 * similarities[i, j]) for j in np.flatnonzero(keep_negative[i]))
        total += math.log(1 + pull) + math.log(1 + push) / 50
    assert ours == pytest.approx(total / len(labels), abs=1e-9)
    mined = MultiSimilarityMiner(epsilon=0.1)(desc, torch.from_numpy(labels))
    theirs = MultiSimilarityLoss(alpha=1, beta=50, base=0)(desc, torch.from_numpy(labels), mined)
    assert ours == pytest.approx(theirs.item(), abs=1e-9)


# --------------------------------------------------------------------------- recall

grid = st.integers(-6, 6).map(float)  # whole metres: the bound is hit, and squares are exact


@given(
    arrays(np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=grid),
    arrays(np.float64, st.tuples(st.integers(0, 8), st.just(2)), elements=grid),
    st.sampled_from([0.0, 1.0, 5.0, 10.0]),
)
def test_positives_equal_brute_force(database, queries, threshold):
    found = positives(database, queries, threshold)
    squares = ((queries[:, None] - database[None]) ** 2).sum(axis=2)  # (Q, N)
    assert [p.tolist() for p in found] == [
        np.flatnonzero(row <= threshold**2).tolist() for row in squares
    ]


@given(st.data(), st.integers(0, 8), st.integers(1, 6))
def test_recall_equals_brute_force(data, queries, k):
    ranked = data.draw(arrays(np.int64, (queries, k), elements=st.integers(-1, 4)))
    truth = [
        np.array(sorted(data.draw(st.sets(st.integers(0, 4), max_size=2))), dtype=np.int64)
        for _ in range(queries)
    ]
    ks = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    right = hits(ranked, truth)
    assert right.tolist() == [
        [int(i) in set(t.tolist()) for i in row] for row, t in zip(ranked, truth, strict=True)
    ]
    for each, recall in recall_at_k(ranked, truth, ks).items():
        found = [any(row[:each]) for row in right.tolist()]
        if queries:
            assert recall == pytest.approx(100 * sum(found) / queries)
        else:
            assert math.isnan(recall)


@pytest.mark.parametrize("ks", [(), (0,), (-1,), (1, 2.5), ("1",), (None,), (True,)])
def test_ks_that_are_no_ranks(ks):
    with pytest.raises(ValueError, match=r"ks is .*(whole number from 1 on|list)"):
        recall_at_k(np.zeros((1, 1), int), [np.array([0])], ks)


# --------------------------------------------------------------------------- search


@given(
    st.sampled_from(SCANS),
    st.integers(1, 40),
    st.integers(0, 5),
    st.integers(1, 50),
    st.integers(1, 6),
    st.integers(1, 300),
    st.sampled_from(["float32", "float16"]),
    st.integers(0, 2**31),
    st.sampled_from([1, 3, 1000]),
)
@settings(max_examples=200)
def test_search_equals_brute_force(scan, n, q, k, dim, block_bytes, dtype, seed, values):
    """Few different values give equal descriptors; more, none. Blocks end anywhere."""
    rng = np.random.default_rng(seed)
    database = unit(rng.integers(-values, values + 1, (n, dim)).astype(float)).astype(dtype)
    queries = unit(rng.integers(-values, values + 1, (q, dim)).astype(float))
    similarities, ranked = search(database, queries, k, scan=scan, block_bytes=block_bytes)
    scores = queries.astype(float) @ database.astype(float).T  # (Q, N)
    k = min(k, n)
    assert similarities.shape == ranked.shape == (q, k)
    assert similarities.dtype == np.float32 and ranked.dtype == np.int64
    np.testing.assert_allclose(similarities, -np.sort(-scores, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(similarities, np.take_along_axis(scores, ranked, 1), atol=1e-6)
    assert (np.diff(similarities, axis=1) <= 0).all()
    assert all(len(set(row)) == k for row in ranked.tolist())  # also among equals, none twice
