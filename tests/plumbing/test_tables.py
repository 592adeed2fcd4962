"""Results tables as notebooks show them, and as pandas goes on with them."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest

from dinomix.evaluation import ALL
from dinomix.plumbing.tables import (
    ResultsTable,
    mean_and_range,
    printed,
    ranks,
    readable,
    show,
    written,
)


def row(method="mix", condition=ALL, k=1, recall=50.0, **values):
    return {"dataset": "city", "condition": condition, "method": method, "k": k} | {
        "recall": recall,
        "queries": 8,
        **values,
    }


def cells(table):
    """What is shown: {row's names: {column: text}}."""
    data = show(table).data
    return {key: dict(zip(data.columns, texts, strict=True)) for key, *texts in data.itertuples()}


def bold(table):
    """Texts of the bold cells."""
    markup = show(table).to_html()
    ids = set(re.findall(r"#(T_\w+_row\d+_col\d+)", markup.split("</style>")[0]))
    found = {id: re.search(rf'id="{id}"[^>]*>([^<]*)<', markup).group(1) for id in ids}
    return sorted(found.values())


def test_rows_are_what_differs_and_columns_are_k():
    rows = [
        row(method, condition, k, 10.0 * k + len(method))
        for method in ("mix", "gem!!")
        for condition in ("night", ALL, "day")
        for k in (1, 5)
    ]
    shown = show(ResultsTable(rows))
    assert shown.data.index.names == ["condition", "method"]
    assert list(shown.data.columns) == ["R@1", "R@5"]
    # Conditions by name, the row over all of them last; methods as they come.
    expected = [(condition, m) for condition in ("day", "night", ALL) for m in ("mix", "gem!!")]
    assert list(shown.data.index) == expected
    assert cells(ResultsTable(rows))[("day", "gem!!")] == {"R@1": "15.0", "R@5": "55.0"}
    assert "dataset city; recall in percent</caption>" in shown.to_html()


def test_spread_over_seeds():
    assert mean_and_range(iter([0.126])) == "0.1"
    table = ResultsTable([row(recall=r, seed=s, run=f"r{s}") for s, r in enumerate([50, 60, 58])])
    assert cells(table) == {(ALL,): {"R@1": "56.0 [50.0, 60.0]"}}
    assert "mean [lowest, highest] over seeds" in table._repr_html_()


def test_best_of_each_column_and_condition_is_bold():
    table = ResultsTable(
        [
            row("a", "day", 1, 50.0),
            row("b", "day", 1, 61.0),
            row("a", "day", 5, 92.0),
            row("b", "day", 5, 71.0),
            row("a", "night", 1, 33.0),
            row("b", "night", 1, 33.0),
            row("a", "snow", 1, 99.0),  # alone: nothing to be better than
        ]
    )
    assert bold(table) == ["33.0", "33.0", "61.0", "92.0"]
    assert cells(table)[("snow", "a")] == {"R@1": "99.0", "R@5": ""}


def test_missing_values_numbers_that_differ_and_queries_that_nothing_could_find():
    for lost in (0, 2):
        markup = ResultsTable([row(without_positives=lost)])._repr_html_()
        assert ("no positive" in markup) == bool(lost)
    table = ResultsTable([row(mix_depth=2, recall=float("nan")), row(mix_depth=pd.NA)])
    assert cells(table) == {("2",): {"R@1": "nan"}, ("",): {"R@1": "50.0"}}


def test_names_are_text_and_never_markup():
    evil = "<script>alert(1)</script>"
    for table in (
        ResultsTable([row(dataset=evil)]),
        ResultsTable([row(evil), row("b")]),
        ResultsTable([row(condition=evil)]),
        ResultsTable([row(**{evil: 1}), row(**{evil: 2})]),
    ):
        assert "<script>" not in table._repr_html_()
        assert "script" in table._repr_html_()


def test_other_tables_are_named_and_shown_plainly():
    with pytest.raises(ValueError, match=r"it lacks the columns \['condition', 'k'\]"):
        show(pd.DataFrame({"recall": [1], "dataset": ["a"]}))
    table = ResultsTable([row()])
    plain = table[["method", "recall"]]
    assert isinstance(plain, ResultsTable)
    assert plain._repr_html_() == pd.DataFrame(plain)._repr_html_()
    assert "<table" in table.iloc[:0]._repr_html_()
    assert repr(plain) == repr(pd.DataFrame(plain))
    words = table.assign(recall="none")  # nothing to take a mean of
    assert repr(words) == repr(pd.DataFrame(words))


def test_printed_as_shown():
    lines = [
        row("gem", c, k, 10.0 * k, mix_depth=d) for c in ("day", ALL) for k, d in ((1, 2.0), (5, 2))
    ]
    table = ResultsTable(lines)
    assert str(table).splitlines() == [
        "dataset city; method gem; mix_depth 2; recall in percent",
        "            R@1   R@5",
        "condition            ",
        "day        10.0  50.0",
        "all        10.0  50.0",
    ]
    near = ResultsTable([row(scale=1234567.25), row(scale=1234567.5)])
    assert "1234567.25" in str(near) and "1234567.5" in str(near)  # two rows, not their mean
    escaped = ResultsTable([row("a & b", "day"), row("a & b", "<night>")])
    assert "method a & b;" in repr(escaped) and "<night>" in repr(escaped)
    many = ResultsTable([row(f"m{i}") for i in range(200)])
    assert len(repr(many).splitlines()) < 100


def headings_and_cells(table):
    markup = readable(table).hide(axis="index").to_html()
    texts = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", markup)
    return texts[: len(table.columns)], texts[len(table.columns) :]


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([711044, 86578176], ["711,044", "86,578,176"]),
        ([64.0, float("nan")], ["64", ""]),
        (pd.array([2, pd.NA], dtype="Int64"), ["2", ""]),
        ([2200.729048, 4.823452], ["2,200.7", "4.8"]),
        ([62.5, 100.0], ["62.5", "100.0"]),
        ([1.0, 0.00022, -3e-7, 0.0], ["1.00", "0.0002", "-0.0000003", "0.00"]),
        ([-0.00613, 0.0], ["-0.00613", "0.00000"]),
        ([float("nan")] * 2, ["", ""]),
        ([float("inf"), 0.123], ["inf", "0.123"]),
        ([True, False], ["True", "False"]),
        (["56 x 56", None], ["56 x 56", ""]),
        (["<b>", "&"], ["&lt;b&gt;", "&amp;"]),
    ],
)
def test_numbers_as_people_write_them(values, written):
    assert headings_and_cells(pd.DataFrame({"a": values}))[1] == written


def test_units():
    columns = {
        "latency_ms": 4.82,
        "memory_mib": 17.0,
        "flops": 22809600,
        "trained_blocks": 1,
        "ms": 2,
    }
    headings, texts = headings_and_cells(pd.DataFrame([columns]))
    assert headings == ["latency (ms)", "memory (MiB)", "flops", "trained blocks", "ms"]
    assert texts == ["4.82", "17", "22.8 MFLOP", "1", "2"]


def test_numbers_in_headings_say_what_they_are():
    table = pd.DataFrame([[1.0, 2.0]], columns=pd.Index([1, 3], name="window"))
    assert list(written(table)) == ["window 1", "window 3"]
    by_depth = pd.DataFrame({"recall": [1.0, 2.0]}, pd.Index([0, 1000], name="mix_depth"))
    assert printed(by_depth)[".md"].splitlines()[2:] == ["| 0 | 1 |", "| 1,000 | **2** |"]
    assert list(written(table.rename(columns={1: "a", 3: "b"}))) == ["a", "b"]
    assert list(written(table.T.rename_axis("val_recall").reset_index())) == ["val recall", "0"]


@pytest.mark.parametrize(
    ("better", "headings"),
    [
        ("high", ["R@1", "R@10", "recall", "val_recall", "recall@1", "recall, none wrong"]),
        ("high", ["average precision", "right (%)"]),
        ("low", ["median error (m)", "search_ms", "activations_mib", "ms a query", "bytes"]),
        ("low", ["wrong (%)"]),
        ("", ["R@1, queries", "right", "others", "query", "parameters", "dim", "seconds", "loss"]),
    ],
)
def test_a_column_knows_which_numbers_are_better(better, headings):
    cells = written(pd.DataFrame({heading: [3.0, 1.0, 2.0] for heading in headings}))
    expected = {"high": [1, 0, 2], "low": [0, 1, 2], "": [0, 0, 0]}
    assert ranks(cells).T.to_numpy().tolist() == [expected[better]] * len(headings)
    asked = ranks(cells, "low").T.to_numpy().tolist()
    assert asked == [expected[better or "low"]] * len(headings)


def test_names_that_begin_with_a_number_are_no_results():
    cells = written(pd.DataFrame({"method": ["512-d", "4096-d"], "day": [1.0, 2.0]}))
    assert ranks(cells, "high").to_numpy().tolist() == [[0, 0], [0, 1]]


def test_what_rows_are_called_is_kept_and_their_numbers_are_not():
    table = pd.DataFrame({"a": [1, 2, 3]})
    for chosen in (table[1:], table.sort_values("a", ascending=False), table[table["a"] != 2]):
        assert list(written(chosen)) == ["a"]
    assert list(written(table.rename_axis("L"))) == ["L", "a"]
    assert list(written(table.set_axis(list("xyz")))) == ["", "a"]


def test_ranks_are_those_of_a_slow_loop():
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = int(rng.integers(1, 9))
        keys = {name: rng.choice(["a", "b"], rows) for name in ("dataset", "method", "k")}
        recall = rng.integers(0, 5, rows) * 250.0 + 0.04
        texts = [f"{r:,.1f} [0.0, 9.9]" if r < 900 else "" for r in recall]
        table = pd.DataFrame({**keys, "recall": texts}).set_index(["method", "k"])
        found = ranks(written(table))["recall"].tolist()
        for i in range(rows):
            same = [
                j for j in range(rows) if all(keys[n][i] == keys[n][j] for n in ("dataset", "k"))
            ]
            rivals = [recall[j] for j in same if texts[j]]
            better = {value for value in rivals if value > recall[i]}
            rank = len(better) + 1 if texts[i] else 0
            expected = rank if (rank, len(rivals) > rank) in ((1, True), (2, True)) else 0
            assert found[i] == expected


def read_markdown(text):
    head, _, *rows = [line[2:-2].split(" | ") for line in text.splitlines()]
    return pd.DataFrame(rows, columns=head)


def test_markdown_and_latex_say_what_is_written():
    index = pd.MultiIndex.from_product([["toy_city"], ["a", "b", "c"]], names=["dataset", None])
    recalls = ["50.0 [49.0, 51.0]", "60.0 [59.0, 61.0]", "70.0 [60.0, 80.0]"]
    columns = {"recall": recalls, "latency_ms": [1234.5, 1.0, np.nan], "what": ["50 %", "", "$_{"]}
    table = pd.DataFrame(columns, index)
    text = printed(table)[".md"]
    assert text.splitlines()[1] == "| --- | --- | ---: | ---: | --- |"
    assert "| **70.0 [60.0, 80.0]** |  | $_{ |" in text and "<ins>60.0 [59.0, 61.0]</ins>" in text
    plain = re.sub(r"\*\*|</?ins>", "", text)
    pd.testing.assert_frame_equal(read_markdown(plain), written(table).astype(str))

    latex = printed(table)[".tex"].splitlines()
    assert latex[:2] == [r"\begin{tabular}{llrrl}", r"\toprule"]
    assert latex[2] == r"dataset &  & recall & latency (ms) & what \\"
    assert latex[4] == r"toy\_city & a & 50.0 [49.0, 51.0] & 1,234.5 & 50 \% \\"
    assert latex[5] == r"toy\_city & b & \underline{60.0 [59.0, 61.0]} & \textbf{1.0} &  \\"
    assert latex[6] == r"toy\_city & c & \textbf{70.0 [60.0, 80.0]} &  & \$\_\{ \\"
    assert latex[7:] == [r"\bottomrule", r"\end{tabular}"]


def test_a_bar_in_a_cell_is_no_column_and_a_table_may_be_empty():
    table = pd.DataFrame({"a|b": ["c|d"]})
    assert printed(table)[".md"] == "| a\\|b |\n| --- |\n| c\\|d |\n"
    assert len(printed(table.iloc[:0])[".md"].splitlines()) == 2
    assert "c|d" not in readable(table.iloc[:0]).to_html()


def test_pandas_goes_on_as_with_any_table(tmp_path):
    rows = [row(m, c, k, 10.0 * k) for m in "ab" for c in ("day", ALL) for k in (1, 5)]
    table, plain = ResultsTable(rows), pd.DataFrame(rows)
    show(table)
    pd.testing.assert_frame_equal(table, plain)  # showing leaves it as it was
    for derived in (
        table[table["k"] == 1],
        table.assign(seed=0),
        table.query("k == 1"),
        table.sort_values("recall"),
        table.reset_index(drop=True),
        pd.concat([table, table], ignore_index=True),
        pd.concat([table, plain], ignore_index=True),
        table.copy(),
        pickle.loads(pickle.dumps(table)),
        table.merge(pd.DataFrame({"method": ["a", "b"], "year": [1, 2]})),
    ):
        assert isinstance(derived, ResultsTable)
        assert "R@1" in derived._repr_html_()
    keys = ["method", "k"]
    means, wide = (
        [t.groupby(keys)[["recall"]].mean() for t in (table, plain)],
        [t.pivot_table(index="method", columns="k", values="recall") for t in (table, plain)],
    )
    pd.testing.assert_frame_equal(*means)
    pd.testing.assert_frame_equal(*wide)
    assert "R@1" not in wide[0]._repr_html_()
    assert isinstance(table["recall"], pd.Series) and table["recall"].mean() == 30.0
    assert type(pd.DataFrame(table)) is pd.DataFrame
    table.to_csv(tmp_path / "t.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), plain)


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="pandas writes Parquet through pyarrow")
    table = ResultsTable([row()])
    table.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), pd.DataFrame([row()]))


def test_intervals_stand_behind_the_recall_of_one_seed():
    bounded = {"low": 41.26, "high": 60.0}
    table = ResultsTable([row(**bounded), row(k=5, recall=70.0, low=65.0, high=75.0)])
    assert cells(table) == {(ALL,): {"R@1": "50.0 [41.3, 60.0]", "R@5": "70.0 [65.0, 75.0]"}}
    assert "recall in percent [interval over groups of queries]" in table._repr_html_()
    seeds = ResultsTable([row(seed=0, **bounded), row(seed=1, recall=60.0, **bounded)])
    assert cells(seeds) == {(ALL,): {"R@1": "55.0 [50.0, 60.0]"}}
