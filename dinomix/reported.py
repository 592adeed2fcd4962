"""What others report: numbers to stand beside measured ones, never among them.

From the DINO-Mix paper (Sci Rep 14, 22100, 2024), its authors' published code and logs, and the
README files of the other methods' repositories. Recall in percent.
"""

import pandas as pd

KS = (1, 5, 10)

# What the paper evaluates on (its Table 2). Counts are of the authors' logs.
_TEST_SETS = {
    "Pitts30k-test": (10_000, 6_816, "25 m", "viewpoint"),
    "Pitts250k-test": (83_952, 8_280, "25 m", "viewpoint, many look-alikes"),
    "SF-XL-val": (8_015, 7_993, "25 m", "a whole city"),
    "Tokyo24/7": (75_984, 315, "25 m", "night, viewpoint"),
    "Nordland": (27_592, 27_592, "+-10 frames, winter on summer", "season"),
    "SF-XL-testv1": (
        27_191,
        1_000,
        "25 m; the small database, not the 2.8 million",
        "phones, years",
    ),
}

# R@1, R@5, R@10 on the sets above; None where nothing is reported.
_RECALLS = {
    "DINO-Mix, ViT-B, 4096-d (log)": (
        (91.68, 95.89, 97.17),
        (94.58, 98.30, 99.09),
        (89.25, 94.80, 96.45),
        (91.75, 95.87, 97.14),
        (80.18, 90.86, 93.97),
        (82.00, 87.10, 87.90),
    ),
    "DINO-Mix, ViT-B, 4096-d (README)": ((92.03, None, None),),
    "DINO-Mix, ViT-S (README)": ((90.61, None, None),),
    "DINO-Mix, ViT-L (README)": ((91.27, None, None),),
    "DINO-Mix, ViT-g (README)": ((87.71, None, None),),
    "MixVPR, ResNet-50, 4096-d": ((91.6, None, None), (94.3, None, None)),
    "CosPlace, ResNet-101, 2048-d": (
        (90.4, None, None),
        (91.8, None, None),
        (None, None, None),
        (88.6, None, None),
    ),
    "Conv-AP, ResNet-50": ((90.5, None, None), (92.8, None, None)),
    "BoQ, DINOv2-B, 12288-d": ((93.7, None, None), (96.6, None, None)),
}


def test_sets() -> pd.DataFrame:
    """The paper's test sets: database, queries, convention, challenge; a row each."""
    columns = ["database", "queries", "convention", "challenge"]
    return pd.DataFrame.from_dict(_TEST_SETS, orient="index", columns=columns)


def recalls() -> pd.DataFrame:
    """Columns method, dataset, convention, k, recall: what is reported, and only that."""
    rows = [
        (method, dataset, _TEST_SETS[dataset][2], k, recall)
        for method, sets in _RECALLS.items()
        for dataset, values in zip(_TEST_SETS, sets, strict=False)
        for k, recall in zip(KS, values, strict=True)
        if recall is not None
    ]
    return pd.DataFrame(rows, columns=["method", "dataset", "convention", "k", "recall"])


def table() -> pd.DataFrame:
    """`recalls` as papers print them: a row a method, R@1 / R@5 / R@10 in each column."""
    found = recalls()
    order = dict.fromkeys(found["method"]), dict.fromkeys(found["dataset"])
    cells = found.groupby(["method", "dataset"])["recall"].agg(
        lambda values: " / ".join(f"{value:g}" for value in values)
    )
    return cells.unstack().loc[list(order[0]), list(order[1])].fillna("")
