import pandas as pd
import pytest

from dinomix.results import COLUMNS, pivot, save_results


def row(**values):
    return {**dict.fromkeys(COLUMNS, 0), "k": 1, **values}


def test_tables_are_joined_and_written_in_one_order(tmp_path):
    a = pd.DataFrame([row(method="a", recall=50.0)])[COLUMNS[::-1]]
    b = pd.DataFrame([row(method="b", recall=60.0)])
    path = tmp_path / "results" / "table.csv"
    joined = save_results([a, b], path)
    assert list(joined.columns) == COLUMNS and joined["method"].tolist() == ["a", "b"]
    pd.testing.assert_frame_equal(pd.read_csv(path), joined)


def test_other_columns_are_named(tmp_path):
    table = pd.DataFrame([row()]).drop(columns="seed").assign(sead=1)
    with pytest.raises(ValueError, match=r"\['seed'\].*\['sead'\]"):
        save_results([table], tmp_path / "table.csv")
    assert not (tmp_path / "table.csv").exists()


def test_pivot_averages_seeds_and_keeps_the_order():
    table = pd.DataFrame(
        [
            row(method="z", condition="night", recall=10.0, seed=0),
            row(method="z", condition="night", recall=20.0, seed=1),
            row(method="z", condition="day", recall=90.0),
            row(method="a", condition="night", recall=5.0),
            row(method="a", condition="day", recall=80.0),
            row(method="a", condition="day", recall=99.0, k=5),
        ]
    )
    wide = pivot(table)
    assert wide.index.tolist() == ["z", "a"] and wide.columns.tolist() == ["night", "day"]
    assert wide.loc["z"].tolist() == [15.0, 90.0] and wide.loc["a", "day"] == 80.0
