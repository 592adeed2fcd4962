"""Studies: the same numbers as one by one, each variant once, whoever dies on the way."""

import dataclasses
import logging
import os
import re
import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch

import dinomix
from dinomix.datasets.benchmarks import BENCHMARKS
from dinomix.datasets.prepare import prepare
from dinomix.plumbing import provenance
from dinomix.runs import cluster
from dinomix.runs.run import COLUMNS
from dinomix.study.study import Study, Variant, _Watch, variants
from tests.conftest import write_places, write_testset
from tests.exchange.test_published import mixvpr_shapes, random_tensors
from tests.made_downloads import write_svox

RECIPE = dinomix.TrainConfig.preset("toy", epochs=2, places_per_batch=3, device="cpu")


def config(**changes):
    settings = {"backbone": "toy_vits14", "image_size": 28, "out_channels": 8, "trained_blocks": 1}
    return dinomix.ModelConfig(**{**settings, **changes})


VARIANTS = [
    Variant("frozen", config(aggregator="gem", trained_blocks=0), None),
    Variant("mix", config(), RECIPE),
    Variant("mix", config(), RECIPE, seed=1),
    Variant("flat", config(mix_depth=0), RECIPE),
]


@pytest.fixture
def study(tmp_path):
    write_places(tmp_path / "places", places=6)
    write_testset(tmp_path / "city", places=4, conditions=("day", "night"))
    write_testset(tmp_path / "city", places=3, split="val")
    return Study(
        places=tmp_path / "places",
        val=tmp_path / "city",
        tests=[tmp_path / "city", (tmp_path / "city", "val")],
        out=tmp_path / "runs",
        images_per_place=2,
        ks=(1, 2),
    )


@pytest.fixture(autouse=True)
def one_thread():
    """As in a worker: the number of threads decides how sums are rounded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def elsewhere(study, tmp_path):
    """The same study with runs of its own."""
    return dataclasses.replace(study, out=tmp_path / "elsewhere")


def assert_same_weights(study, other):
    """Every run of `other` is there in `study`, with the same weights."""
    names = [path.parent.name for path in other.out.glob("*/config.json")]
    for name in names:
        mine, its = (dinomix.Run.open(s.out / name).load("last") for s in (study, other))
        for key, value in its.state_dict().items():
            assert mine.state_dict()[key].equal(value)
    assert len(names) == 3


def alone(study, variants=VARIANTS):
    """The study's table from training and evaluating one by one in this process."""
    return pd.concat([study.test(variant) for variant in variants], ignore_index=True)


def test_a_variant_is_trained_and_evaluated_as_by_hand(study):
    table = study.test(VARIANTS[2])
    places = dinomix.PlaceDataset(study.places, images_per_place=2, seed=1)
    val, recipe = dinomix.TestSet(study.val, "val"), dataclasses.replace(RECIPE, seed=1)
    where = {"weights": "hub", "out": study.out, "progress": False}
    run = dinomix.train(config(), places, val, recipe, **where)
    expected = dinomix.evaluate(run.load(), dinomix.TestSet(study.val), (1, 2), progress=False)
    first = table[table["dataset"] == "city-test"].reset_index(drop=True)
    assert first["recall"].tolist() == expected["recall"].tolist()
    assert first["condition"].tolist() == expected["condition"].tolist()
    assert set(table["dataset"]) == {"city-test", "city-val"}
    assert set(table["run"]) == {run.folder.name}
    assert set(table["seed"]) == {1} and set(table["method"]) == {"mix"}
    assert set(table["val_recall"]) == {run.best["recall@1"]}
    model = run.load()
    assert set(table["parameters"]) == {sum(p.numel() for p in model.parameters())}
    assert set(table["trained"]) == {sum(p.numel() for p in model.parameters() if p.requires_grad)}
    assert len(list(study.out.glob("*/config.json"))) == 1  # it is the same run


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=str)
def test_queries_are_kept_beside_recalls_and_made_for_finished_runs(study, variant):
    table = study.test(variant)
    recalls, kept = (
        {path: path.read_bytes() for path in sorted(study.out.glob(f"**/{kind}-*.csv"))}
        for kind in ("recall", "queries")
    )
    assert [p.name.replace("queries", "recall") for p in kept] == [p.name for p in recalls]
    found = study.queries([variant])
    assert set(found["dataset"]) == {"city-test", "city-val"}
    assert set(found["method"]) == {variant.method} and set(found["seed"]) == {variant.seed}
    for (dataset, condition), part in found.groupby(["dataset", "condition"]):
        rows = table[(table["dataset"] == dataset) & (table["condition"] == (condition or "all"))]
        for k, recall in zip(rows["k"], rows["recall"], strict=True):
            assert 100 * (part["rank"] <= k).fillna(False).mean() == pytest.approx(recall)
    for path in kept:
        path.unlink()
    assert study.is_done(variant)
    history = {path: path.stat().st_mtime_ns for path in study.out.glob("*/history.csv")}
    pd.testing.assert_frame_equal(study.queries([variant]), found)
    assert history == {path: path.stat().st_mtime_ns for path in study.out.glob("*/history.csv")}
    assert {p: p.read_bytes() for p in kept} == kept
    assert {p: p.read_bytes() for p in recalls} == recalls


def test_untrained_variants_leave_no_run(study):
    table = study.test(VARIANTS[0])
    assert set(table["run"]) == {"untrained"} and set(table["epoch"]) == {0}
    assert table["mix_depth"].isna().all() and table["val_recall"].isna().all()
    assert not list(study.out.glob("*/config.json"))


def test_published_checkpoints_are_tested_as_they_are(study, tmp_path, monkeypatch):
    path = tmp_path / "mine.pth"
    shapes = mixvpr_shapes(n=4, depth=1, d=8, r=2)  # for 32 pixels
    torch.save(random_tensors(shapes), path)
    (variant,) = variants({"mine": {"published": path}}, config(), RECIPE, seeds=(3, 4))
    with pytest.raises(FileNotFoundError, match=r"no published model has that name: .*'megaloc'"):
        variants({"theirs": {"published": "megalok"}}, config(), RECIPE)
    monkeypatch.setattr("dinomix.study.study.published_file", lambda name: tmp_path / name)
    assert variants({"mine": {"published": "mine.pth"}}, config(), RECIPE) == [
        dataclasses.replace(variant, seed=0)
    ]
    table = study.test(variant)
    expected = dinomix.evaluate(
        dinomix.load_published(path), dinomix.TestSet(study.val), (1, 2), progress=False
    )
    first = table[table["dataset"] == "city-test"]
    assert first["recall"].tolist() == expected["recall"].tolist()
    assert set(table["dim"]) == {16} and set(table["run"]) == {"untrained"}
    assert study.is_done(variant)

    monkeypatch.setattr("dinomix.study.study.load_published", lambda _: pytest.fail("loaded again"))
    pd.testing.assert_frame_equal(study.run([variant], progress=False), table)
    tensors = random_tensors(shapes)
    torch.save(tensors | {"aggregator.row_proj.bias": torch.ones(2)}, path)
    assert not study.is_done(variant)  # another file is another model


@pytest.mark.parametrize("learns", [None, dataclasses.replace(RECIPE, cache_prefix=True)])
def test_a_variant_is_tested_at_the_size_it_asks_for(study, learns):
    """From the same run or start, in a table of its own."""
    asked = {None: "28 x 28", 28: "28 x 28", 42: "42 x 42", (28, 56): "28 x 56", "native": "native"}
    tables = {}
    for size, text in asked.items():
        variant = Variant("gem", config(aggregator="gem"), learns, image_size=size)
        tables[text] = study.test(variant)
        assert set(tables[text]["image_size"]) == {text}
        test, model = dinomix.TestSet(study.val), study.load(variant)
        expected = dinomix.evaluate(model, test, (1, 2), image_size=size, progress=False)
        first = tables[text][tables[text]["dataset"] == "city-test"]
        assert first["recall"].tolist() == expected["recall"].tolist()
    assert len({*map(str, tables["28 x 28"]["run"])}) == 1
    assert len(list(study.out.glob("**/recall-*.csv"))) == 8  # two sets, four sizes
    assert len(list(study.out.glob("*/config.json"))) == (learns is not None)


def test_tables_from_before_there_was_an_image_size_are_read(study):
    table = study.test(VARIANTS[0])
    for path in study.out.glob("**/recall-*.csv"):
        old = pd.read_csv(path, keep_default_na=False)
        old.drop(columns="image_size").to_csv(path, index=False)
    again = study.test(VARIANTS[0])
    assert "image_size" in again and again[table.columns].equals(table)


def test_test_sets_that_share_a_database_describe_it_once(study, tmp_path, monkeypatch):
    prepare("svox", write_svox(tmp_path / "raw"), tmp_path / "svox", progress=False)
    for name, queries in {"svox-night": 2, "svox-snow": 1}.items():
        changed = dataclasses.replace(BENCHMARKS[name], database=4, queries=queries)
        monkeypatch.setitem(BENCHMARKS, name, changed)
    tests = [*study.tests, tmp_path / "svox-night", tmp_path / "svox-snow", *study.tests[:1]]
    study, described = dataclasses.replace(study, tests=tests), []

    def noting(model, paths, **options):
        described.append(paths)
        return dinomix.describe(model, paths, **options)

    monkeypatch.setattr("dinomix.study.study.describe", noting)
    table = study.test(VARIANTS[0])
    sets = study.test_sets()
    assert described == [test.database for test in sets[:3]]  # the last one is done already
    model = study.load(VARIANTS[0])
    for test in sets:
        expected = dinomix.evaluate(model, test, study.ks, progress=False)["recall"]
        assert table.loc[table["dataset"] == test.name, "recall"].tolist()[: len(expected)] == [
            *expected
        ]


def test_numbers_of_numpy_name_the_same_work(study):
    numpy = dataclasses.replace(study, images_per_place=np.int64(2), ks=np.array([1, 2]))
    assert numpy == study and numpy.test(VARIANTS[0]).equals(study.test(VARIANTS[0]))
    methods = {"mix": {}, "frozen": {"train": False}}
    found = variants(methods, config(), RECIPE, seeds=np.arange(2))
    assert found == variants(methods, config(), RECIPE, seeds=(0, 1))
    assert {type(variant.seed) for variant in found} == {int}
    with pytest.raises(ValueError, match=r"seeds is 0; .*a list"):
        variants(methods, config(), RECIPE, seeds=0)
    with pytest.raises(ValueError, match=r"images_per_place is 1; .*loss needs two images"):
        dataclasses.replace(study, images_per_place=1)


def test_what_is_done_costs_nothing(study, monkeypatch):
    table = alone(study, VARIANTS[:2])

    def no_cluster(workers):
        raise AssertionError("nothing was left to do")

    monkeypatch.setattr(cluster, "local_client", no_cluster)
    pd.testing.assert_frame_equal(study.run(VARIANTS[:2], progress=False), table)
    renamed = study.run([Variant("other name", config(), RECIPE)], progress=False)
    assert set(renamed["method"]) == {"other name"}  # a name is not part of a run


def test_what_a_study_finds_is_traced_to_its_runs_and_its_data(study, monkeypatch):
    monkeypatch.setattr(provenance, "USED", {})
    alone(study, VARIANTS[1:3])
    provenance.USED.clear()  # now both are there
    table = study.run(VARIANTS[:2], progress=False)
    told = provenance.describe()
    assert told["runs"] == table["run"].iloc[-1]  # the other one is not trained, or not asked for
    assert told["tests"].split("; ") == [f"{t.name} {t.fingerprint}" for t in study.test_sets()]
    made = provenance.read(study.out / told["runs"])
    assert (made["places"], made["val"]) == (told["places"], told["val"])
    assert made["places"] == dinomix.PlaceDataset(study.places, images_per_place=2).fingerprint
    assert made["version"] == dinomix.__version__ and made["device"].startswith("cpu, ")
    for file in (study.out / told["runs"]).glob("*.csv"):
        assert provenance.read(file)["date"] == made["date"]
    model = provenance.read(study.out / told["runs"] / "best.safetensors")
    assert model["date"] == made["date"] and "toy_vits14" in model["dinomix_config"]


def test_processes_do_what_one_does_and_name_what_fails(study, elsewhere, monkeypatch):
    monkeypatch.setattr(provenance, "USED", {"profile": {"mine": None}})
    broken = Variant("broken", config(trained_blocks=13), RECIPE)
    with pytest.raises(
        RuntimeError, match=r"1 of 5 variants failed.*\n  broken, seed 0: .*0 to 12"
    ):
        study.run([broken, *VARIANTS], workers=2, progress=False)
    assert all(study.is_done(variant) for variant in VARIANTS)
    table = study.run(VARIANTS, progress=False)
    order = dict.fromkeys(zip(table["method"], table["seed"], strict=True))
    assert list(order) == [(variant.method, variant.seed) for variant in VARIANTS]
    pd.testing.assert_frame_equal(table, alone(elsewhere))
    assert_same_weights(study, elsewhere)
    assert provenance.read(study.out / table["run"].iloc[-1])["profile"] == "mine"


def test_only_a_process_that_ends_slowly_is_passed_over_in_silence():
    nanny = logging.getLogger("distributed.nanny")
    for message, shown in (
        ("Worker process still alive after 4.0 seconds, killing", False),
        ("Restarting worker (status=Status.running)", True),
    ):
        record = nanny.makeRecord(nanny.name, logging.WARNING, "", 0, message, (), None)
        assert bool(nanny.filter(record)) is shown


def test_a_killed_worker_costs_no_more_than_its_epoch(study, elsewhere):
    """A real local Dask cluster of two; one of them is killed in the middle of a run."""
    long = dinomix.TrainConfig.preset("toy", epochs=8, places_per_batch=3, device="cpu")
    variants = [Variant("mix", config(), long, seed=seed) for seed in range(3)]
    killed = []

    def kill_one(client):
        pids = client.run(os.getpid)
        while not (found := list(study.out.glob("*/checkpoint.pt"))):
            time.sleep(0.005)
        victim = next(iter(pids.values()))
        os.kill(victim, signal.SIGKILL)
        killed.append((victim, found))

    with cluster.local_client(2) as client:
        killer = threading.Thread(target=kill_one, args=(client,))
        killer.start()
        table = study.run(variants, client=client, progress=False)
        killer.join()
        assert killed and killed[0][0] not in client.run(os.getpid).values()
        level = client.run(lambda: logging.getLogger("distributed.worker").getEffectiveLevel())
        assert set(level.values()) == {logging.CRITICAL}  # in notebooks, nobody wants the rest
    pd.testing.assert_frame_equal(table, alone(elsewhere, variants))
    assert_same_weights(study, elsewhere)


@pytest.fixture
def watched(study, tmp_path):
    """A watch over four runs of six epochs, and a function that writes how long some took."""
    made = [Variant(name, config(), dataclasses.replace(RECIPE, epochs=6)) for name in "abcd"]
    runs = {
        i: dinomix.Run(tmp_path / v.method, v.model, v.train, pd.DataFrame(columns=COLUMNS))
        for i, v in enumerate(made)
    }

    def write(i, *seconds):
        runs[i].write_history(
            [{"epoch": e, "step": 0, "seconds": s} for e, s in enumerate(seconds)]
        )

    write(2, 9, 900, 900, 900)  # killed in an earlier night, on another machine
    return _Watch(runs), made, write


def test_the_time_left_is_that_of_what_is_trained_now(watched):
    watch, made, write = watched
    assert watch.in_words(made, []) == ""
    write(0, 1)
    assert watch.in_words(made, []) == "a, seed 0: epoch 0 of 6"
    write(0, 1, 10, 30)  # epoch 0 only validates
    # Epochs left: 4 of a, 6 of b, 3 of c, 6 of d, all of 20 s, one after the other.
    assert watch.in_words(made, []) == "about 06:20 left; a, seed 0: epoch 2 of 6, 01:20 left"
    write(1, 1, 40)
    words = watch.in_words(made, [])  # a: 80 s, b: 200 s, c: 3 x 30 s, d: 6 x 30 s; two at a time
    assert words.startswith("about 04:35 left; ") and "b, seed 0: epoch 1 of 6, 03:20 left" in words
    write(0, 1, *[20] * 6)
    words = watch.in_words(made, [0])  # b, c and d, by b
    assert words == "about 07:50 left; b, seed 0: epoch 1 of 6, 03:20 left"
    assert watch.in_words(made, [0, 1, 2, 3]) == ""


def test_a_study_tells_how_far_each_variant_is(study, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "NEWS", 0.1)
    recipe = dataclasses.replace(RECIPE, epochs=8)
    study.run([Variant(name, config(), recipe, seed=i) for i, name in enumerate("ab")], workers=1)
    shown = capsys.readouterr().err
    assert re.search(r"study: [01] of 2 variants .* left; [ab], seed [01]: epoch \d of 8", shown)
    assert "study: 2 of 2 variants" in shown


def test_variants_are_read_from_literals():
    methods = {
        "mix": {},
        "gem, frozen": {"aggregator": "gem", "trained_blocks": 0, "train": False},
        "large": {"backbone": "toy_vitb14", "train": {"lr": 0.5}},
        "mixvpr": {"preset": "mixvpr_resnet50", "image_size": 224, "weights": "file"},
    }
    found = variants(methods, config(), RECIPE, weights="w", seeds=[3, 4])
    seeds = {"mix": (3, 4), "gem, frozen": (3,), "large": (3, 4), "mixvpr": (3, 4)}
    assert [(v.method, v.seed) for v in found] == [(m, s) for m in seeds for s in seeds[m]]
    mix, _, frozen, large, _, mixvpr, _ = found
    assert mix == Variant("mix", config(), RECIPE, "w", 3)
    assert frozen.model == config(aggregator="gem", trained_blocks=0) and frozen.train is None
    assert frozen.weights == "w" and large.weights == "hub" and mixvpr.weights == "file"
    assert large.train == dataclasses.replace(RECIPE, lr=0.5)
    assert mixvpr.image_size is None
    (sized,) = variants({"gem": {"aggregator": "gem", "test_size": [28, 56]}}, config(), RECIPE)
    assert sized.image_size == (28, 56) and sized.model == config(aggregator="gem")
    assert mixvpr.model == dataclasses.replace(dinomix.PRESETS["mixvpr_resnet50"], image_size=224)


@pytest.mark.parametrize(
    ("special", "complaint"),
    [
        ({"mix_dept": 3}, "deep: ModelConfig .*'mix_dept'"),
        ({"train": {"lr": -1.0}}, "deep: TrainConfig.lr is -1.0"),
        ({"test_size": 56}, "deep: the weights of mix on toy_vits14 fit images of 28 x 28 only"),
        ({"aggregator": "gem", "test_size": 30}, "deep: .*multiples of 14"),
        ({"preset": "mixvpr"}, "deep: .*'mixvpr'; .*mixvpr_resnet50"),
    ],
)
def test_variants_name_what_is_wrong(special, complaint):
    with pytest.raises(ValueError, match=complaint):
        variants({"deep": special}, config(), RECIPE)
