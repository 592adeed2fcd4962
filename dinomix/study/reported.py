"""What others report: numbers to stand beside measured ones, never among them.

From the DINO-Mix paper (Sci Rep 14, 22100, 2024), its authors' published code and logs, and the
README files of the other methods' repositories. Recall in percent.
"""

import pandas as pd

from dinomix.datasets.benchmarks import BENCHMARKS

KS = (1, 5, 10)

# The benchmark that it is, and what counts as right. The first six are what the paper
# evaluates on (its Table 2). Others report the last three under the same names, and their numbers
# cannot be compared with the paper's.
_TEST_SETS = {
    "Pitts30k-test": ("pitts30k-test", "25 m"),
    "Pitts250k-test": ("pitts250k-test", "25 m"),
    "SF-XL-val": ("sfxl-val", "25 m"),
    "Tokyo24/7": ("tokyo247", "25 m"),
    "Nordland": ("nordland", "+-10 frames, winter on summer"),
    "SF-XL-testv1, small": ("sfxl-testv1-small", "25 m"),
    "Nordland, +-10, others": ("nordland", "+-10 frames"),
    "Nordland, +-1": ("nordland-1", "+-1 frame"),
    "SF-XL-testv1, full": ("sfxl-testv1", "25 m"),
}

_COUNTS_NOT_STATED = ("Nordland, +-10, others",)

# Method -> test set -> R@1, or R@1, R@5, R@10.
_RECALLS: dict[str, dict[str, tuple[float, ...]]] = {
    "DINO-Mix, ViT-B, 4096-d (log)": {
        "Pitts30k-test": (91.68, 95.89, 97.17),
        "Pitts250k-test": (94.58, 98.30, 99.09),
        "SF-XL-val": (89.25, 94.80, 96.45),
        "Tokyo24/7": (91.75, 95.87, 97.14),
        "Nordland": (80.18, 90.86, 93.97),
        "SF-XL-testv1, small": (82.00, 87.10, 87.90),
    },
    "DINO-Mix, ViT-B, 4096-d (README)": {"Pitts30k-test": (92.03,)},
    "DINO-Mix, ViT-S (README)": {"Pitts30k-test": (90.61,)},
    "DINO-Mix, ViT-L (README)": {"Pitts30k-test": (91.27,)},
    "DINO-Mix, ViT-g (README)": {"Pitts30k-test": (87.71,)},
    "MixVPR, ResNet-50, 4096-d": {"Pitts30k-test": (91.6,), "Pitts250k-test": (94.3,)},
    "CosPlace, ResNet-101, 2048-d": {
        "Pitts30k-test": (90.4,),
        "Pitts250k-test": (91.8,),
        "Tokyo24/7": (88.6,),
    },
    "Conv-AP, ResNet-50": {"Pitts30k-test": (90.5,), "Pitts250k-test": (92.8,)},
    "BoQ, DINOv2-B, 12288-d": {
        "Pitts30k-test": (93.7,),
        "Pitts250k-test": (96.6,),
        "Nordland, +-10, others": (90.6,),
        "Nordland, +-1": (81.3,),
    },
    "FoL, ViT-L, global": {
        "Pitts30k-test": (93.9,),
        "Pitts250k-test": (96.5,),
        "Tokyo24/7": (96.2,),
        "Nordland, +-10, others": (87.8,),
        "SF-XL-testv1, full": (91.5,),
    },
}


def test_sets() -> pd.DataFrame:
    """The test sets: database, queries, convention, challenge; a row each."""
    rows = {}
    for name, (benchmark, right) in _TEST_SETS.items():
        known = BENCHMARKS[benchmark]
        counts = (None, None) if name in _COUNTS_NOT_STATED else (known.database, known.queries)
        rows[name] = (*counts, right, known.challenge)
    columns = ["database", "queries", "convention", "challenge"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.astype({"database": "Int64", "queries": "Int64"})


def recalls() -> pd.DataFrame:
    """Columns method, dataset, convention, k, recall: what is reported, and only that."""
    rows = [
        (method, dataset, _TEST_SETS[dataset][1], k, recall)
        for method, found in _RECALLS.items()
        for dataset, values in found.items()
        for k, recall in zip(KS, values, strict=False)
    ]
    return pd.DataFrame(rows, columns=["method", "dataset", "convention", "k", "recall"])


def table() -> pd.DataFrame:
    """`recalls` as papers print them: a row a method, R@1 / R@5 / R@10 in each column."""
    cells = (
        recalls()
        .groupby(["method", "dataset"])["recall"]
        .agg(lambda values: " / ".join(f"{value:g}" for value in values))
    )
    return cells.unstack().loc[list(_RECALLS), list(_TEST_SETS)].fillna("")
