"""Reported numbers: the ones the project was given, each on its own test set."""

from dinomix.study import reported


def test_numbers_stand_with_their_sets():
    found = reported.recalls().set_index(["method", "dataset", "k"])["recall"]
    for method, dataset, k, recall in [
        ("DINO-Mix, ViT-B, 4096-d (log)", "Pitts30k-test", 1, 91.68),
        ("DINO-Mix, ViT-B, 4096-d (log)", "SF-XL-testv1, small", 10, 87.90),
        ("DINO-Mix, ViT-B, 4096-d (log)", "Nordland", 5, 90.86),
        ("DINO-Mix, ViT-g (README)", "Pitts30k-test", 1, 87.71),
        ("CosPlace, ResNet-101, 2048-d", "Tokyo24/7", 1, 88.6),
        ("BoQ, DINOv2-B, 12288-d", "Pitts250k-test", 1, 96.6),
        ("BoQ, DINOv2-B, 12288-d", "Nordland, +-1", 1, 81.3),
        ("FoL, ViT-L, global", "SF-XL-testv1, full", 1, 91.5),
        ("FoL, ViT-L, re-ranked", "SF-XL-night", 1, 60.5),
        ("SAGE, ViT-L", "Nordland, +-10, others", 1, 94.8),
        ("SAGE, ViT-B", "SF-XL-testv1, small", 1, 88.8),
        ("ImAge, ViT-B, unified", "Nordland, not stated", 1, 97.7),
        ("SelaVPR++, ViT-L", "MSLS-val", 1, 94.3),
        ("MegaLoc", "MSLS-val, others", 10, 95.8),
    ]:
        assert found[method, dataset, k] == recall


def test_nothing_is_made_up_and_tables():
    found = reported.recalls()
    assert found["recall"].between(50, 100).all() and not found.isna().any().any()
    assert ("CosPlace, ResNet-101, 2048-d", "SF-XL-val") not in set(
        zip(found["method"], found["dataset"], strict=True)
    )
    conventions = found.groupby("dataset")["convention"].unique()
    assert [len(names) for names in conventions] == [1] * len(conventions)
    assert conventions["Nordland"][0] == "+-10 frames, winter on summer"
    assert conventions["Nordland, +-1"][0] == "+-1 frame"

    assert reported.test_sets().loc["Tokyo24/7", "queries"] == 315
    wide = reported.table()
    assert wide.loc["DINO-Mix, ViT-B, 4096-d (log)", "Nordland"] == "80.18 / 90.86 / 93.97"
    assert wide.loc["Conv-AP, ResNet-50", "Nordland"] == ""
    facts = ["dimension", "image_size", "training_data"]
    assert wide.columns.tolist() == facts + reported.test_sets().index.tolist()
    assert wide.index.tolist() == found["method"].unique().tolist()
    assert wide.loc["ImAge, ViT-B, GSV-Cities", facts].tolist() == ["6144", "322", "GSV-Cities"]
    assert wide.loc["FoL, ViT-L, global", facts].tolist() == ["", "504", ""]  # as much as is said
    assert wide.loc["MegaLoc", "MSLS-val, others"] == "91 / - / 95.8"
    assert reported.methods()["source"].all()
    ranks = found.groupby(["method", "dataset"])["recall"]  # R@1 <= R@5 <= R@10
    assert ranks.apply(lambda group: group.is_monotonic_increasing).all()
    assert not found.duplicated(["method", "dataset", "k"]).any()
