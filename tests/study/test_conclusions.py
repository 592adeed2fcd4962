"""Conclusions: a text is shown with the numbers that it is about, and with no others."""

import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from dinomix.study.conclusions import conclude, fingerprint
from dinomix.study.results import leaders, save_table

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TABLE = pd.DataFrame(
    {
        **{"method": ["a", "a", "b", "b"], "dataset": "city", "condition": "day", "k": 1},
        **{"seed": [0, 1, 0, 1], "recall": [50.0, 60.0, 31.25, 70.0], "val_recall": 40.0},
        **{"run": "0123", "backbone": "net"},
    }
)
SHARES = pd.DataFrame(
    {
        **{"image": [0, 0, 1, 1], "class": ["sky", "car"] * 2, "method": "a"},
        **{"share": [0.6, 0.4, 0.5, 0.5], "area": [0.8, 0.2, 0.8, 0.2]},
    }
)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A profile's folder with two notebooks' tables, in the working folder a text about each."""
    monkeypatch.chdir(tmp_path)
    for number, table in (("03", TABLE), ("08", SHARES)):
        text = f'[{number}]\nprofile = "toy"\nfingerprint = "{fingerprint([table])}"\ntext = "so"\n'
        with Path("conclusions.toml").open("a") as file:
            file.write(text)
    folder = tmp_path / "toy"
    folder.mkdir()
    TABLE.to_csv(folder / "03_benchmark.csv", index=False)
    SHARES.to_csv(folder / "08_shares.csv", index=False)
    pd.DataFrame({"seconds": [0.5]}).to_csv(folder / "03_costs.csv")  # differ from day to day
    return folder


def test_the_text_belongs_to_its_numbers_and_profile(results):
    assert conclude(results, "03") == conclude(results, "08") == "so"
    TABLE.replace(31.25, 32.5).to_csv(results / "03_benchmark.csv", index=False)
    own = conclude(results, "03")
    assert "`toy`" in own and "a: 55.0 [50.0, 60.0]" in own and "b: 51.2 [32.5, 70.0]" in own
    TABLE.to_csv(results / "03_benchmark.csv", index=False)
    demo = results.rename(results.with_name("demo"))
    assert "`demo`" in conclude(demo, "03") and conclude(demo, "08").endswith("tables above")


def test_numbers_without_a_text_speak_for_themselves(results):
    lines = [leaders(TABLE), leaders(TABLE.assign(dataset="town"))]
    TABLE.to_csv(results / "04_a.csv", index=False)
    TABLE.assign(dataset="town").to_csv(results / "04_b.csv", index=False)
    expected = "What the numbers of profile `toy` say:\n- " + "\n- ".join(lines)
    assert conclude(results, "04") == expected
    assert conclude(results, "05").endswith("tables above")  # of which there is none
    Path("conclusions.toml").unlink()
    assert conclude(results, "03").endswith(lines[0])


def test_leaders_are_tested_where_the_queries_are_there(results):
    which = {"dataset": "city", "backbone": "net", "seed": 0, "condition": "day"}
    asked = [{"query": f"{i}", "group": f"{i}", "rank": 1 + i % 3, **which} for i in range(30)]
    queries = pd.concat([pd.DataFrame(asked).assign(method=name) for name in "ab"])
    save_table(queries, results / "03_benchmark.queries.csv.gz")
    TABLE.replace(70.0, 71.0).to_csv(results / "03_benchmark.csv", index=False)
    assert "over 30 queries, p = 1.000; the seeds overlap" in conclude(results, "03")


@pytest.mark.parametrize(
    ("table", "same"),
    [
        (TABLE.iloc[::-1], True),
        (TABLE.assign(run="4567", note="x"), True),
        (TABLE.replace(60.0, 60.04), True),
        (TABLE.replace(60.0, 60.1), False),
        (TABLE.assign(val_recall=40.1), False),
        (TABLE.assign(seed=[0, 2, 0, 1]), False),
        (TABLE.replace("a", "c"), False),
        (TABLE[1:], False),
    ],
)
def test_a_fingerprint_is_of_what_texts_quote(table, same):
    assert (fingerprint([table]) == fingerprint([TABLE])) is same


def test_shares_count_as_their_mean_over_images():
    swapped = SHARES.assign(share=[0.5, 0.5, 0.6, 0.4])
    assert fingerprint([swapped]) == fingerprint([SHARES])
    assert fingerprint([SHARES.replace(0.6, 0.603)]) != fingerprint([SHARES])


def test_each_notebook_with_a_text_ends_with_it():
    texts = tomllib.loads((NOTEBOOKS / "conclusions.toml").read_text())
    for number, known in texts.items():
        (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
        last = nbformat.read(path, as_version=4).cells[-1].source
        assert last.endswith(f'setup.found("{number}")')
        assert set(known) == {"profile", "fingerprint", "text"}
        assert known["fingerprint"] != fingerprint([])  # that of no numbers
    assert texts and list(texts) == sorted(texts)


def test_the_command_prints_fingerprints(results, tmp_path, monkeypatch):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path))
    pd.DataFrame({"seconds": [0.5]}).to_csv(results / "01_costs.csv")
    (tmp_path / "results").mkdir()
    results.rename(tmp_path / "results" / "toy")
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "dinomix.study.conclusions"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == f"03 {fingerprint([TABLE])}\n08 {fingerprint([SHARES])}\n"
