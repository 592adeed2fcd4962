"""What a notebook concludes: the text of `notebooks/conclusions.toml` where the numbers are those
that it is about, else what they say by themselves.

`python -m dinomix.study.conclusions toy` prints the fingerprints of a profile's numbers.
"""

import hashlib
import sys
import tomllib
from pathlib import Path

import pandas as pd

from dinomix.plumbing.workspace import data_root
from dinomix.study.results import leaders, queries_beside

KEYS = ["method", "dataset", "condition", "k", "seed", "window", "class"]
DECIMALS = {"recall": 1, "val_recall": 1, "share": 3}  # that texts quote; a share is no percentage


def fingerprint(tables: list[pd.DataFrame]) -> str:
    """Equal where recalls, and shares over all images, are equal to a decimal of a percent."""
    texts = []
    for table in tables:
        keys, values = ([n for n in names if n in table] for names in (KEYS, DECIMALS))
        mean = table.groupby(keys, dropna=False)[values].mean()  # in order of the keys
        texts.append(mean.round(DECIMALS).to_csv(float_format="%.3f"))
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


def read_tables(results: Path, number: str) -> dict[Path, pd.DataFrame]:
    """A notebook's tables of recalls or shares in a profile's folder; its number is as "03"."""
    tables = {path: pd.read_csv(path) for path in sorted(results.glob(f"{number}_*.csv"))}
    return {path: table for path, table in tables.items() if {"recall", "share"} & set(table)}


def conclude(results: Path, number: str) -> str:
    """The conclusion of a notebook, as Markdown, with its folder as the working folder."""
    tables, path = read_tables(results, number), Path("conclusions.toml")
    texts = tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
    known = texts.get(number, {})
    now = results.name, fingerprint(list(tables.values()))
    if (known.get("profile"), known.get("fingerprint")) == now:
        return known["text"]
    lines = [
        leaders(table, queries=queries_beside(path))
        for path, table in tables.items()
        if "backbone" in table
    ]
    said = "\n".join(lines).replace("\n", "\n- ") or "no more than the tables above"
    return f"What the numbers of profile `{results.name}` say:\n- {said}"


if __name__ == "__main__":
    results = data_root() / "results" / (sys.argv[1] if sys.argv[1:] else "toy")
    for number in sorted({path.name[:2] for path in results.glob("*.csv")}):
        if tables := read_tables(results, number):
            print(number, fingerprint(list(tables.values())))
