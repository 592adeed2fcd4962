"""The evaluator against brute force on awkward test sets, and what training may read."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dinomix.backbones import normalization
from dinomix.data import TestSet
from dinomix.evaluation import evaluate, retrieve
from dinomix.model import ModelConfig, build_model
from dinomix.retrieval import describe
from tests.conftest import write_image, write_places, write_testset

EQUAL = 1e-5  # similarities nearer than this are a tie: rounding may order them either way
MIX = ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8, out_rows=2)
WIDE = ModelConfig(backbone="toy_vits14", image_size=(28, 56), out_channels=8, out_rows=2)
TALL = ModelConfig(backbone="toy_vits14", image_size=(42, 14), aggregator="gem")
CNN = ModelConfig(backbone="toy_resnet", image_size=(64, 96), out_channels=8, out_rows=2)


@pytest.fixture(scope="module", params=[MIX, WIDE, TALL, CNN], ids=["mix", "wide", "tall", "cnn"])
def model(request):
    torch.manual_seed(0)
    return build_model(request.param, "hub").eval()


@dataclass(frozen=True)
class World:
    """A made test set: few pictures make duplicates, a small field makes many positives."""

    database: int
    queries: int
    pictures: int
    field: int  # metres; positions are whole, so that some lie on the threshold
    seed: int = 0
    threshold: float = 25.0
    unit: str = "m"
    conditions: int = 1


WORLDS = {
    "nothing special": World(30, 20, pictures=100, field=150),
    "ties and duplicates": World(30, 20, pictures=4, field=60),
    "everything the same": World(12, 6, pictures=1, field=0),
    "no positives at all": World(12, 6, pictures=100, field=100_000, threshold=0.0),
    "fewer images than k": World(4, 15, pictures=100, field=80),
    "one image, one query": World(1, 1, pictures=1, field=10),
    "one image, many queries": World(1, 9, pictures=5, field=60),
    "many images, one query": World(40, 1, pictures=100, field=40),
    "frames, in conditions": World(25, 18, 100, 60, threshold=2.0, unit="frames", conditions=3),
}


def make(world: World, folder: Path) -> TestSet:
    """Pictures of all sizes and both orientations, some grey, copied where there are few."""
    rng = np.random.default_rng(world.seed)
    sizes = [(28, 28), (60, 31), (17, 90), (200, 40)]
    paths = []
    for i in range(world.database + world.queries):
        path = folder / f"{i}.png"
        if i < world.pictures:
            write_image(path, rng, sizes[i % 4])
            if i % 5 == 4:
                Image.open(path).convert("L").save(path)
        else:
            shutil.copyfile(folder / f"{rng.integers(world.pictures)}.png", path)
        paths.append(path)
    positions = rng.integers(0, world.field + 1, (len(paths), 2)).astype(float)
    if world.unit == "frames":
        positions[:, 1] = 0
    names = [f"c{i % world.conditions}" for i in range(world.queries)]
    return TestSet.from_lists(
        "made",
        paths[: world.database],
        paths[world.database :],
        positions[: world.database],
        positions[world.database :],
        world.threshold,
        conditions=names if world.conditions > 1 else None,
        unit=world.unit,
    )


def describe_one(model, path: Path) -> np.ndarray:
    """A descriptor as the paper tells it, one image at a time."""
    height, width = model.config.size
    image = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    mean, std = normalization(model.config.backbone)
    pixels = (np.asarray(image) / 255 - mean) / std  # (H, W, 3)
    with torch.no_grad():
        return model(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[0].double().numpy()


def bounds(similarities, right, k: int) -> tuple[bool, bool]:
    """Whether a positive is among the first k, with all ties against it, and all for it."""
    nearest, wrong = similarities[right].max(initial=-np.inf), similarities[~right]
    worst = right.any() and (wrong >= nearest - EQUAL).sum() < k
    best = right.any() and (wrong > nearest + EQUAL).sum() < k
    return bool(worst), bool(best)


def by_hand(model, test: TestSet, ks) -> dict[tuple[str, int], tuple[float, float, int, int]]:
    """(condition, k) -> recall at the least and at the most, queries, those without positives."""
    database = np.stack([describe_one(model, path) for path in test.database])
    rows: dict[str, list] = {}
    for number, path in enumerate(test.queries):
        similarities = database @ describe_one(model, path)
        right = np.zeros(len(database), dtype=bool)
        for i, position in enumerate(test.database_utm):
            east, north = position - test.query_utm[number]
            right[i] = east * east + north * north <= test.threshold**2
        for condition in {test.conditions[number], "all"} - {""}:
            rows.setdefault(condition, []).append((similarities, right))
    found = {}
    for condition, queries in rows.items():
        for k in ks:
            pairs = [bounds(similarities, right, k) for similarities, right in queries]
            least, most = (100 * sum(side) / len(queries) for side in zip(*pairs, strict=True))
            lost = sum(not right.any() for _, right in queries)
            found[condition, k] = least, most, len(queries), lost
    return found


@pytest.mark.parametrize("name", WORLDS)
def test_evaluate_equals_brute_force(model, name, tmp_path):
    test, ks = make(WORLDS[name], tmp_path), (1, 2, 5, 10)
    table = evaluate(model, test, ks, batch_size=7, progress=False)
    expected = by_hand(model, test, ks)
    assert set(zip(table["condition"], table["k"], strict=True)) == set(expected)
    for row in table.itertuples():
        least, most, queries, lost = expected[row.condition, row.k]
        assert least - 1e-9 <= row.recall <= most + 1e-9, (row, least, most)
        assert (row.queries, row.without_positives) == (queries, lost)
    apart = [least == most for least, most, _, _ in expected.values()]
    if name in ("nothing special", "fewer images than k", "frames, in conditions"):
        assert all(apart)  # nothing tied, so the above was an equation
        assert 0 < table["recall"].max() < 100 or name == "fewer images than k"
    if name in ("no positives at all", "everything the same"):
        assert (table["recall"] == (100 if name == "everything the same" else 0)).all()
    if name == "ties and duplicates":
        assert not all(apart)


def test_the_batch_size_changes_nothing(model, tmp_path):
    test = make(WORLDS["nothing special"], tmp_path)
    one = evaluate(model, test, batch_size=1, progress=False)
    alone = describe(model, test.database, batch_size=1, progress=False)
    for batch_size, workers in ((2, 0), (7, 2), (1000, 0)):
        options = {"batch_size": batch_size, "workers": workers, "progress": False}
        pd.testing.assert_frame_equal(evaluate(model, test, **options), one, check_exact=True)
        together = describe(model, test.database, **options)
        np.testing.assert_allclose(together, alone, atol=2e-6)


def test_the_order_of_the_database_changes_nothing(model, tmp_path):
    test = make(WORLDS["nothing special"], tmp_path)
    order = np.random.default_rng(1).permutation(len(test.database))
    shuffled = [test.database[i] for i in order]
    positions = test.database_utm[order], test.query_utm
    other = TestSet.from_lists("made", shuffled, test.queries, *positions)
    tables = [evaluate(model, each, batch_size=8, progress=False) for each in (other, test)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_table_asks_for_no_more_than_was_retrieved(tmp_path):
    """Recall@10 of five retrieved images would be a recall@5 under another name."""
    test = make(WORLDS["nothing special"], tmp_path)
    few = retrieve(build_model(MIX), test, k=5, progress=False)
    assert few.table((1, 5))["k"].tolist() == [1, 5]
    with pytest.raises(ValueError, match=r"5 were retrieved .* too few for recall@10"):
        few.table((1, 10))
    all_there_are = make(WORLDS["fewer images than k"], tmp_path / "few")
    found = retrieve(build_model(MIX), all_there_are, k=10, progress=False)
    assert found.table((1, 10))["k"].tolist() == [1, 10]


# --------------------------------------------------------------------------- what training reads

WATCHED = """
import os, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(event, arguments):  # loaders' worker processes inherit it
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str):
        os.write(log, f"{os.getpid()} {arguments[0]}\\n".encode())

sys.addaudithook(note)

from dinomix import ModelConfig, PlaceDataset, TestSet, TrainConfig, evaluate, train

config = ModelConfig(
    backbone="toy_vits14", trained_blocks=1, out_channels=8, out_rows=2, image_size=28
)
recipe = TrainConfig(epochs=2, places_per_batch=2, lr=0.02, workers=2, device="cpu")
places, val = PlaceDataset("places"), TestSet("city", "val")
run = train(config, places, val, recipe, out="runs", progress=False)
os.write(log, b"0 /trained\\n")
evaluate(run.load(), TestSet("city", "test"), workers=2, progress=False)
print(os.getpid())
"""


@pytest.mark.skipif(
    multiprocessing.get_start_method(allow_none=True) not in (None, "fork")
    or not sys.platform.startswith("linux"),
    reason="worker processes inherit the watch where they are forked",
)
def test_training_and_selection_read_no_test_image(tmp_path):
    write_places(tmp_path / "places")
    for split in ("val", "test"):
        write_testset(tmp_path / "city", places=6, split=split)
    command = [sys.executable, "-c", WATCHED, "log"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 1) for line in (tmp_path / "log").read_text().splitlines()]
    opened = [(pid, os.path.realpath(tmp_path / path)) for pid, path in lines]
    end = opened.index(("0", "/trained"))

    def readers(part: str, since: int, until: int) -> set[str]:
        """Which processes opened or listed something below a folder."""
        below = str(tmp_path / part)
        return {pid for pid, path in opened[since:until] if path.startswith(below)}

    main = done.stdout.strip()
    assert len(readers("places/Images", 0, end) - {main}) >= 2, "workers are not watched"
    assert len(readers("city/images/val", 0, end) - {main}) >= 2, "workers are not watched"
    assert readers("city/images/test", 0, end) == set()
    # The canary: the same watch sees the test set as soon as it is read, by whomever.
    assert main in readers("city/images/test", end, len(opened))
    assert readers("city/images/test", end, len(opened)) - {main}
