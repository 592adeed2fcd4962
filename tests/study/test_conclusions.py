"""Conclusions: a text is shown with the numbers that it is about, and with no others."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from dinomix.study import conclusions
from dinomix.study.conclusions import conclude, fingerprint

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
    """A profile's folder with tables that a text is about; of `more`, there is no table."""
    known = {"profile": "toy", "fingerprint": fingerprint([TABLE]), "text": "a wins"}
    other = {**known, "tables": ["08_shares", "more"]}
    monkeypatch.setattr(conclusions, "conclusions", lambda: {"03": known, "08": other})
    folder = tmp_path / "toy"
    folder.mkdir()
    TABLE.to_csv(folder / "03.csv", index=False)
    SHARES.to_csv(folder / "08_shares.csv", index=False)
    return folder


def test_the_text_belongs_to_its_numbers_and_profile(results):
    assert conclude(results, "03") == "a wins"
    TABLE.replace(31.25, 32.5).to_csv(results / "03.csv", index=False)
    own = conclude(results, "03")
    assert "`toy`" in own and "a: 55.0 [50.0, 60.0]" in own and "b: 51.2 [32.5, 70.0]" in own
    TABLE.to_csv(results / "03.csv", index=False)
    assert "`demo`" in conclude(results.rename(results.with_name("demo")), "03")


def test_other_tables_speak_for_themselves_and_none_says_so(results):
    assert conclude(results, "08").endswith(
        "\n- a: most heat for its area falls on car, 45.0 % on 20.0 % of the pixels"
    )
    (results / "03.csv").unlink()
    assert conclude(results, "03").endswith("there is no table of them")


def test_an_unfilled_fingerprint_is_that_of_no_table():
    assert fingerprint([]) and fingerprint([TABLE])
    assert all(
        known["fingerprint"] != fingerprint([]) for known in conclusions.conclusions().values()
    )


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


@pytest.mark.parametrize("notebook", conclusions.conclusions())
def test_the_notebook_ends_with_its_conclusion(notebook):
    last = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells[-1].source
    assert last.endswith(f'setup.found("{notebook}")')
    for name in conclusions.conclusions()[notebook].get("tables", [notebook]):
        source = (NOTEBOOKS / f"{notebook}.ipynb").read_text()
        assert re.search(rf"\\\"{name}(\.csv)?\\\"", source), f"nothing saves {name}"


def test_the_command_prints_fingerprints(tmp_path, monkeypatch):
    folder = tmp_path / "results" / "p"
    folder.mkdir(parents=True)
    TABLE.to_csv(folder / "04_mixer_depth.csv", index=False)
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path))
    command = [
        sys.executable,
        "-W",
        "error::RuntimeWarning",
        "-m",
        "dinomix.study.conclusions",
        "p",
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"04_mixer_depth {fingerprint([TABLE])}" in printed
    assert "03_benchmark no tables" in printed
