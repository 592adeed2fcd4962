"""What a notebook concludes: the text of `conclusions.toml` where it is about the numbers at hand,
else what they say themselves.

`python -m dinomix.study.conclusions toy` prints the fingerprint of each notebook's numbers.
"""

import hashlib
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

from dinomix.plumbing.workspace import data_root
from dinomix.study.results import leaders

KEYS = ["method", "dataset", "condition", "k", "seed", "window", "class"]
DECIMALS = {"recall": 1, "val_recall": 1, "share": 3}  # that texts quote; a share is no percentage


def conclusions() -> dict[str, dict[str, Any]]:
    """Notebook -> its text, and the profile, tables and fingerprint that the text is about."""
    return tomllib.loads(Path(__file__).with_name("conclusions.toml").read_text("utf-8"))


def read_tables(results: Path, notebook: str) -> list[pd.DataFrame]:
    """The tables that a notebook concludes from, as far as they are in the folder."""
    names = conclusions()[notebook].get("tables", [notebook])
    paths = [results / f"{name}.csv" for name in names]
    return [pd.read_csv(path) for path in paths if path.is_file()]


def fingerprint(tables: list[pd.DataFrame]) -> str:
    """Equal where all recalls and shares are, to a decimal of a percent; in any order of rows."""
    texts = []
    for table in tables:
        keys = [name for name in KEYS if name in table]
        values = {name: n for name, n in DECIMALS.items() if name in table}
        mean = table.groupby(keys, dropna=False)[list(values)].mean()  # a share's, over images
        texts.append(mean.round(values).to_csv(float_format="%.3f"))
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


def conclude(results: Path, notebook: str) -> str:
    """The conclusion, as Markdown, from a profile's folder of results."""
    known, tables = conclusions()[notebook], read_tables(results, notebook)
    if (results.name, fingerprint(tables)) == (known["profile"], known["fingerprint"]):
        return known["text"]
    lines = "\n".join(map(in_words, tables)) or "nothing, for there is no table of them"
    return f"What the numbers of profile `{results.name}` say:\n- " + lines.replace("\n", "\n- ")


def in_words(table: pd.DataFrame) -> str:
    """What a table of recalls, or of `shares.class_shares`, says by itself; a line each."""
    if "share" in table:
        mean = 100 * table.groupby(["method", "class"], sort=False)[["share", "area"]].mean()
        gains = (mean["share"] / mean["area"]).dropna()
        found = [(*pair, *mean.loc[pair]) for pair in gains.groupby("method", sort=False).idxmax()]
        says = "{}: most heat for its area falls on {}, {:.1f} % on {:.1f} % of the pixels"
        return "\n".join(says.format(*each) for each in found)
    if "window" in table:
        frames = table["window"].astype(str)
        table = table.assign(method=table["method"] + ", frames averaged: " + frames)
    return leaders(table)


if __name__ == "__main__":
    for name, said in conclusions().items():
        tables = read_tables(data_root() / "results" / sys.argv[1], name)
        holds = fingerprint(tables) == said["fingerprint"]
        print(name, fingerprint(tables) if tables else "no tables", "holds" if holds else "")
