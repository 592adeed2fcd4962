"""What names finished work and what is in its files, as literals.

Runs, tables and descriptors are found again by these names. So a test that fails here says that
users lose what they have: mend the code, not the number. Names depend on file names, on sizes and
on the shipped weights, never on pixels or on the machine. What depends on random draws or on
rounding is compared with a tolerance, since another release of torch may differ there.
"""

import hashlib
import json
import os
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import dinomix
import toycity
from dinomix import ModelConfig, PlaceDataset, TestSet, TrainConfig, Variant

# All that is not of `import dinomix`: a module that moves costs one line.
from dinomix.aggregators import AGGREGATORS
from dinomix.localization import stand_in, zero_shot
from dinomix.plumbing.files import config_hash
from dinomix.study.results import COLUMNS as RESULTS_COLUMNS
from dinomix.training import PRESETS as RECIPES
from dinomix.widgets.collection import Collection
from toycity.writer import definition, toycity_shots


def words(text):
    return text.split()


def pairs(text):
    """The pins in a text: "name pin,name pin"."""
    return dict(pair.rsplit(maxsplit=1) for pair in text.split(","))


MIX = ModelConfig(backbone="toy_vits14", image_size=112, out_channels=8, trained_blocks=1)
GEM = ModelConfig(backbone="toy_resnet", image_size=112, aggregator="gem", trained_blocks=0)
OLDER = {
    "lr": 3e-3,
    "backbone_lr": None,
    "initialise": False,
}  # of "toy", until its stand-ins changed
RECIPE = TrainConfig.preset("toy", epochs=1, places_per_batch=3, device="cpu", **OLDER)
# Of MIX and RECIPE, on the made data below, from the shipped weights.
RUN, PLACES, VAL = "ec016426a9aa", "e0e3a7495c727e30", "1c20a2e9b0bdefb6"
MODEL_PART = """{"aggregator": "mix", "aggregator_options": {}, "backbone": "toy_vits14",
 "image_size": 112, "mix_depth": 2, "out_channels": 8, "out_rows": 4, "stage": null,
 "train_tokens": false, "trained_blocks": 1}"""
TRAIN_PART = """{"accumulation": 1, "alpha": 1.0, "augment": "none", "base": 0.0, "beta": 50.0,
 "cache_prefix": true, "clip_norm": 1.0, "clip_value": null, "epochs": 1, "epsilon": 0.1,
 "gamma": 0.3333333333333333, "lr": 0.003, "milestones": [5, 10, 15, 20, 25, 30, 35, 40, 45],
 "momentum": 0.9, "optimizer": "adamw", "places_per_batch": 3, "precision": "no",
 "schedule": "cosine", "seed": 0, "warmup_steps": 20, "weight_decay": 0.01}"""
HISTORY = "epoch,step,loss,mined_share,lr,recall@1,recall@5,seconds,images_per_second\n"
RECALL = words("dataset convention condition k recall queries without_positives")
MODEL = words("method backbone trained_blocks mix_depth dim image_size")
STAND_IN = "67bd5439473f00b3"  # the content of `stand_in()`: its config and the shipped weights


def config_text(version):
    """The config.json of RUN."""
    model, train = json.loads(MODEL_PART), json.loads(TRAIN_PART)
    names = {"places": PLACES, "train": train, "val": VAL, "weights": "c5fb48aa6648729a"}
    return json.dumps({"dinomix": version, "finished": True, "model": model, **names}, indent=2)


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def write_image(path, number):
    """A BMP, whatever its name says: sizes of files are part of names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.arange(16 * 3) * [37, 91, 53][number % 3] + 11 * number
    pixels = (colours % 256).astype(np.uint8).reshape(4, 4, 3).repeat(7, axis=0).repeat(7, axis=1)
    Image.fromarray(pixels).save(path, "BMP")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The number of threads decides how sums are rounded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Training places of two cities, and a test set with two splits and two conditions."""
    root, number = tmp_path_factory.mktemp("made"), 0
    (root / "places/Dataframes").mkdir(parents=True)
    for city, places in (("Aville", 4), ("Beton", 3)):
        rows = ["place_id,year,month,northdeg,city_id,lat,lon,panoid"]
        for place in range(places):
            for i in range(3 if place else 2):
                number += 1
                north, lat, lon = 90 * i, f"45.{place:03d}", f"3.{i:04d}"
                rows.append(f"{place},2020,{i + 1},{north},{city},{lat},{lon},p{number}")
                name = f"{city}_{place:07d}_2020_{i + 1:02d}_{north:03d}_{lat}_{lon}_p{number}.jpg"
                write_image(root / "places/Images" / city / name, number)
        (root / f"places/Dataframes/{city}.csv").write_text("\n".join(rows) + "\n")
    for split in ("val", "test"):
        for place in range(4):
            for j, folder in enumerate(("database", "queries_day", "queries_night")):
                number += 1
                name = f"@{400000 + 100 * place + 5 * j}.00@5000000.00@31@T@{split}{place}@.jpg"
                write_image(root / "city/images" / split / folder / name, number)
    return root


@pytest.fixture
def here(made, monkeypatch):
    """Inside the made data, where nothing may be trained."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("DINOMIX_NO_TRAINING", "1")


@pytest.fixture(scope="module")
def studied(made):
    """A study of the made data, done: its folder of runs, and the results of each variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.delenv("DINOMIX_NO_TRAINING", raising=False)
        tests = ["city", ["city", "val"]]
        study = dinomix.Study.under(Path(), "places", "city", tests, images_per_place=2, ks=(1, 2))
        variants = [Variant("a", MIX, RECIPE), Variant("b", GEM, None)]
        variants += [Variant("c", MIX, None, weights=None, seed=7)]
        tables = [study.test(variant) for variant in variants]
    return made / "runs", tables


def run_name(model=MIX, recipe=RECIPE, weights="hub", places=None, val=None, **of_places):
    """The folder of a run that is not there, from the refusal to train it."""
    places = places or PlaceDataset("places", **{"images_per_place": 2, **of_places})
    val = val or TestSet("city", "val")
    with pytest.raises(Exception, match="NO_TRAINING") as refused:
        dinomix.train(model, places, val, recipe, weights=weights, out="none")
    return re.search(r"none.([0-9a-f]{12})\b", str(refused.value))[1]


def test_names_of_values():
    assert config_hash({"b": (1, 0.1), "a": None}, "é", Path("x") / "y", True) == "1f64eaec5f6e"


def test_model_configs():
    expected = pairs(
        "dino_mix 0295b993e45d,dino_mix_toy 899abd053f43,gem_resnet50 2ae818c75811,"
        "gem_dinov2 e5873c34a926,netvlad_resnet50 f30610cc67c5,netvlad_dinov2 af3eb262ee0e,"
        "convap_resnet50 80d682c8a92f,convap_dinov2 7cddea524121,cosplace_resnet50 1891c89ce569,"
        "cosplace_dinov2 51d5fea6be90,mixvpr_resnet50 9a903c837b62,salad 8801c62e3beb,"
        "boq_resnet50 314342108cf0,boq a6e76d2ad973,dino_mix_authors 34fb919cac23,"
        "small f260adf10de3"
    )
    assert {name: config_hash(c.to_dict()) for name, c in dinomix.PRESETS.items()} == expected
    options = {"aggregator": "netvlad", "aggregator_options": {"clusters": 32}}
    wide = ModelConfig(image_size=(224, 308), **options)
    assert config_hash(wide.to_dict()) == "b519a6dbf0b9"


def test_train_configs():
    found = {name: config_hash(TrainConfig.preset(name).identity()) for name in RECIPES}
    assert found == pairs(
        "paper 34718f58703b,authors 63299364f876,toy abe68ca3a07d,robust 027da4b93a03,"
        "small b77efe3cb7af"
    )
    for changes, expected in (
        ({"shuffle": "all", "compile": False, "workers": 3, "device": "cuda:1"}, "34718f58703b"),
        ({"shuffle": "city"}, "0990d76f57cd"),
        ({"compile": True}, "6449b670105e"),
        ({"shuffle": "city", "compile": True}, "17c9dc2a2cfb"),
        ({"lr": 1, "clip_norm": 1, "cache_prefix": True, "milestones": (3,)}, "82412d0f4584"),
    ):
        assert config_hash(TrainConfig(**changes).identity()) == expected, changes


def test_fingerprints_of_places(here):
    places = PlaceDataset("places", images_per_place=2)
    rest, held_out = places.hold_out(0.4)
    few = PlaceDataset("places", cities=["Beton"], images_per_place=2, min_images=3, seed=5)
    assert (places.fingerprint, rest.fingerprint) == (PLACES, "cbed76997717cd99")
    assert (held_out.fingerprint, held_out.name) == ("5c7f9d4fb0005ee5", "places-held-out")
    assert few.fingerprint == "c398364872eb4fca"


def test_fingerprints_of_test_sets(here):
    sets = [TestSet("city"), TestSet("city", "val"), TestSet("city/images/test", threshold=10)]
    expected = {"city-test": "a9490f6eb901aa8f", "city-val": VAL, "test": "eabbc77a631a8e17"}
    assert {test.name: test.fingerprint for test in sets} == expected
    lists = ("made", [Path("a.jpg"), Path("b.jpg")], [Path("q.jpg")])
    utm = np.array([[0.0, 0.0], [30.004, -0.001]]), np.array([[0.0, 7.5]])
    sets = [
        TestSet.from_lists(*lists, *utm),
        TestSet.from_lists(*lists, *utm, conditions=["night"]),
        TestSet.from_lists(*lists, *utm, 10, unit="frames", positions_in_names=False),
        TestSet.from_lists(*lists, *utm, 0, unit="places"),
        TestSet.from_lists(*lists, None, None),
    ]
    assert [(test.convention, test.fingerprint) for test in sets] == [
        ("25 m", "770f56bb2f920c51"),
        ("25 m", "9144f74ab1eff8e8"),
        ("+-10 frames", "4cc1b0d2ed2ac616"),
        ("same place", "6d1f47638a6bf4eb"),
        ("no positions", "38002540c9b6ca07"),
    ]


def test_benchmarks():
    """The first eleven; others may come."""
    keys = ("folder", "split", "threshold", "unit", "swapped", "stride", "convention")
    first = words("pitts30k-val pitts30k-test pitts250k-val pitts250k-test tokyo247 nordland")
    first += words("nordland-1 sfxl-val sfxl-testv1 sfxl-testv1-small msls-val")
    facts = [
        " ".join([name, *(str(getattr(dinomix.BENCHMARKS[name], key)) for key in keys)])
        for name in first
    ]
    assert (len(facts), digest(sorted(facts))) == (11, "a69c486c67b0")


def test_names_of_runs(here):
    rest, held_out = PlaceDataset("places", images_per_place=2).hold_out(0.4)
    vitb, resnet = (ModelConfig(backbone=f"toy_{b}", image_size=112) for b in ("vitb14", "resnet"))
    city = TrainConfig(places_per_batch=2, shuffle="city", compile=True, device="cpu")
    found = {
        "as it is": run_name(),
        "random": run_name(weights=None),
        "by city": run_name(recipe=city),
        "seed": run_name(seed=3),
        "one city": run_name(cities=["Aville"]),
        "held out": run_name(places=rest, val=held_out),
        "toy_vitb14": run_name(vitb),
        "toy_resnet": run_name(resnet),
    }
    paper = TrainConfig(places_per_batch=2)
    found |= {name: run_name(model, paper) for name, model in dinomix.PRESETS.items()}
    assert found == {"as it is": RUN} | pairs(
        "random 196ba8b5a0ca,by city a48a8ac65777,seed 6c5a7f477763,one city 29d0309dd132,"
        "held out b1e5c154bf54,toy_vitb14 0bc3c7799f5d,toy_resnet 2bd22bc8e704,"
        "dino_mix b3215b1d83e7,dino_mix_toy e9bac8dfe15a,gem_resnet50 e4294aa6daa8,"
        "gem_dinov2 9b137a65b98f,netvlad_resnet50 39a4409ef155,netvlad_dinov2 61f8b332ff7e,"
        "convap_resnet50 5043a1062dd2,convap_dinov2 b3639dd7d8df,cosplace_resnet50 968f060f17de,"
        "cosplace_dinov2 68e862fefb73,mixvpr_resnet50 1dd17a2b1984,salad 03df92e33f08,"
        "boq_resnet50 da389eb6fe44,boq 2dac552a2ac7,dino_mix_authors 71addbbcc5f6,"
        "small 645432bb5be8"
    )
    Path("own.safetensors").write_bytes(b"made weights")
    assert run_name(weights="own.safetensors") == "ad14a3602eea"


def test_run_of_the_toy_study(tmp_path, monkeypatch):
    """The default city's file names, and notebook 02's run on it; images are not looked into."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DINOMIX_NO_TRAINING", "1")
    shots = toycity_shots(Path("toycity"), toycity.ToyCityConfig())
    names = [Path(shot.target) for shot in shots]
    assert (len(names), digest(sorted(n.as_posix() for n in names))) == (6340, "5d49e277978d")
    cities = {}
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
        name.touch()
        if not name.name.startswith("@"):
            city, place, year, month, north, *rest = name.stem.split("_")
            row = [str(int(place)), year, str(int(month)), str(int(north)), city, *rest]
            cities.setdefault(city, []).append(",".join(row))
    Path("toycity/train/Dataframes").mkdir()
    for city, rows in cities.items():
        lines = ["place_id,year,month,northdeg,city_id,lat,lon,panoid", *rows]
        Path(f"toycity/train/Dataframes/{city}.csv").write_text("\n".join(lines) + "\n")
    places, val = PlaceDataset("toycity/train"), TestSet("toycity", "val")
    assert (places.fingerprint, val.fingerprint) == ("04dce10dda1bd1b7", "bafc1b9fdc84c195")
    recipe = TrainConfig.preset("toy")
    name = run_name(dinomix.PRESETS["dino_mix_toy"], recipe, places=places, val=val)
    assert name == "b26a2cd503f7"


def test_files_of_a_study(studied):
    runs, _ = studied
    found = {path.relative_to(runs).as_posix() for path in runs.rglob("*") if path.is_file()}
    files = words("config.json history.csv best.safetensors last.safetensors")
    sets = ["46cdd8c50e2d.csv", "16b5cc86e5a0.csv"]  # city-test, city-val
    tables = [f"{kind}-{name}" for kind in ("recall", "queries") for name in sets]
    prefixes = ["5faac99064d2", "0a7732c3ae24", "a5b81d5844bf"]  # of training, and of each table
    assert {name for name in found if not name.endswith("lock")} == {
        *(f"{RUN}/{name}" for name in [*files, "provenance.json", *tables]),
        *(f"prefix/{name}/features.npy" for name in prefixes),
        *(f"untrained/f7d700cc12d0/{name}" for name in tables),  # shipped weights, seed 0
        *(f"untrained/0a948e765ee8/{name}" for name in tables),  # no weights, seed 7
    }


def test_content_of_a_run(studied):
    folder = studied[0] / RUN
    assert (folder / "config.json").read_text() == config_text(dinomix.__version__) + "\n"
    header, *rows = (folder / "history.csv").read_text().splitlines(keepends=True)
    assert header == HISTORY
    assert [re.match(r"\d+,\d+,", row)[0] for row in rows] == ["0,0,", "1,2,"]
    assert rows[0].startswith("0,0,,,,") and rows[0].endswith(",\n")
    last = dinomix.Run.open(folder).history.iloc[1]
    assert last["lr"] == pytest.approx(0.0003)
    # Of initial weights, order of places and draws of images, by the seed.
    assert last["loss"] == pytest.approx(1.192504, rel=1e-3)


def test_an_old_run_is_found_without_training(here):
    folder = Path("old") / RUN
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config_text("0.0.1"))
    row = "1,2,1.0545513033866882,0.5,0.00030000000000000003,62.5,100.0,0.04,667.25\n"
    (folder / "history.csv").write_text(HISTORY + "0,0,,,,50.0,100.0,0.05,\n" + row)
    places = PlaceDataset("places", images_per_place=2)
    run = dinomix.train(MIX, places, TestSet("city", "val"), RECIPE, weights="hub", out="old")
    assert run.folder == folder and run.best["loss"] == 1.0545513033866882
    assert run.train_config.shuffle == "all" and run.model_config == MIX


def test_columns(studied, here):
    runs, tables = studied
    assert ["profile", *MODEL, *RECALL, "seed", "run"] == RESULTS_COLUMNS[:-4]
    assert RESULTS_COLUMNS[-4:] == ["parameters", "trained", "val_recall", "epoch"]
    for path in runs.glob("**/recall-*.csv"):
        header = path.read_text().splitlines()[0]
        assert header == ",".join([*RECALL, *MODEL, "parameters", "trained"])
    for table, run in zip(tables, (RUN, "untrained", "untrained"), strict=True):
        added = ["parameters", "trained", "seed", "run", "val_recall", "epoch"]
        assert list(table.columns) == [*RECALL, *MODEL, *added]
        assert set(table["run"]) == {run}
    found = dinomix.retrieve(stand_in(), TestSet("city"), progress=False).table()
    assert list(found.columns) == RECALL
    assert list(found["condition"]) == [*["day"] * 3, *["night"] * 3, *["all"] * 3]


def test_files_of_a_model(tmp_path):
    model = dinomix.build_model(dinomix.PRESETS["dino_mix_toy"])
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    fields = (
        '{"backbone": "toy_vits14", "trained_blocks": 3, "train_tokens": false, '
        '"aggregator": "mix", "mix_depth": 2, "out_channels": 128, "out_rows": 4, '
        '"image_size": 112, "stage": null, "aggregator_options": {}}'
    )
    version = {"dinomix_version": dinomix.__version__}
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(fields) | version
    dinomix.save_model(model, tmp_path / "mine.safetensors")
    for name in ("model.safetensors", "mine.safetensors"):
        with safe_open(tmp_path / name, "pt") as file:
            header, names = file.metadata(), sorted(file.keys())
        assert header == {"dinomix_config": fields} | version
        assert (len(names), digest(names)) == (188, "f9969d982f71")
        assert names[0] == "aggregator.channel_proj.bias"
        assert names[-1] == "backbone.trunk.pos_embed"


def test_names_and_shapes_of_tensors():
    found = {}
    for backbone in ("toy_resnet", "timm/resnet18", "dinov2_vits14", "dinov2_vits14_reg"):
        found[backbone] = ModelConfig(backbone=backbone, trained_blocks=1)
    found["dinov3_vits16"] = ModelConfig(backbone="dinov3_vits16")
    found["stage 2"] = ModelConfig(backbone="toy_resnet", trained_blocks=1, stage=2)
    found |= {name: ModelConfig(backbone="toy_vits14", aggregator=name) for name in AGGREGATORS}
    for name, config in found.items():
        with torch.device("meta"):
            tensors = dinomix.PlaceModel(config).state_dict().items()
        found[name] = digest(sorted(f"{key} {tuple(value.shape)}" for key, value in tensors))
    assert found == pairs(
        "toy_resnet af9aefbac1e6,timm/resnet18 fc60f264b379,dinov2_vits14 684010ba8fab,"
        "dinov2_vits14_reg 519e4cbcb849,dinov3_vits16 45df33839405,stage 2 6aea62f66f13,"
        "mix a903bcbe8648,gem af26c0776dd2,netvlad 91041b1974e9,convap 438f4b29ebc4,"
        "cosplace 92f43247252d,salad 9cbc1b600386,boq 32b8a94bc7ee"
    )


UNTRAINED = {  # seed 0, at 112 px: sums of backbone and aggregator
    "toy_vits14 mix": (-27.625167, -79.432689),
    "toy_vits14 gem": (-27.625167, -3.0),
    "toy_vits14 netvlad": (-27.625167, -577.385135),
    "toy_vits14 convap": (-27.625167, 4.382637),
    "toy_vits14 cosplace": (-27.625167, 1.382208),
    "toy_vits14 salad": (-27.625167, -26.775829),
    "toy_vits14 boq": (-27.625167, 570.680749),
    "toy_vitb14 mix": (-123.971538, -96.315037),
    "toy_resnet mix": (-759.139043, -28.874244),
}


def total(module):
    """A weighted sum, so that two values that change places are seen."""
    values = torch.cat([value.double().flatten() for value in module.state_dict().values()])
    return float(values @ torch.linspace(-1, 1, len(values), dtype=torch.float64))


@pytest.mark.parametrize("name", UNTRAINED)
def test_untrained_models(name, tmp_path):
    """Sums with a tolerance, not bytes: another release of torch may draw or round differently."""
    assert {each.split()[1] for each in UNTRAINED} == set(AGGREGATORS)
    backbone, aggregator = name.split()
    config = ModelConfig(backbone=backbone, aggregator=aggregator, image_size=112, out_channels=64)
    torch.manual_seed(99)  # must not matter
    study = dinomix.Study(tmp_path, tmp_path, [], tmp_path)
    model = study.load(Variant(aggregator, config, None, weights=None, seed=0))
    found = total(model.backbone), total(model.aggregator)
    assert found == pytest.approx(UNTRAINED[name], abs=1e-3)


def test_models_to_try_things_out():
    with pytest.warns(UserWarning, match="random"):
        toy = zero_shot("dino_mix_toy")
    assert [total(stand_in()), total(toy)] == pytest.approx([-32301.4716, -83.4066], abs=1e-2)


def test_photo_index(here):
    photos = Path("city/images/test/database")
    query = photos / "@400000.00@5000000.00@31@T@test0@.jpg"
    dinomix.localize(stand_in(), photos, query, progress=False, device="cpu")
    index = sqlite3.connect(photos / ".dinomix.sqlite")
    assert index.execute("PRAGMA application_id").fetchone() == (0x64696E6F,)
    assert index.execute("PRAGMA user_version").fetchone() == (1,)
    objects = index.execute("SELECT type, name FROM sqlite_schema WHERE sql NOT NULL").fetchall()
    assert objects == [("table", "photos")]
    columns = index.execute("SELECT name, type, pk FROM pragma_table_info('photos')").fetchall()
    assert " ".join(f"{name} {kind} {key}" for name, kind, key in columns) == (
        "model TEXT 1 photo BLOB 2 size INTEGER 0 changed INTEGER 0 descriptor BLOB 0"
    )
    rows = index.execute("SELECT model, photo, size, length(descriptor) FROM photos").fetchall()
    index.close()
    assert len(rows) == 4 and (STAND_IN, os.fsencode(query.name), 2406, 512) in rows


def test_descriptors_of_widgets_and_of_describe_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [Path(f"{name}.bmp") for name in "abq"]
    for number, path in enumerate(paths):
        write_image(path, number)
        os.utime(path, ns=(0, 1_700_000_000_123_456_000 + number))
    test = TestSet.from_lists("made", paths[:2], paths[2:], None, None)
    model = stand_in()
    Collection([test], {"a": model}, k=1, cache="kept").retrieval("made", "a")
    names = {"4a41be7f703d8d58", "bebc6b8e272d4755"}  # of queries and database
    assert {path.name for path in Path("kept").iterdir()} == {f"{STAND_IN}-{n}.npy" for n in names}
    dinomix.describe_to("all.npy", model, paths, progress=False, device="cpu")
    content = {"model": STAND_IN, "images": "4c684bbf5dae896b", "dtype": "float32"}
    content |= {"shape": [3, 128], "chunk": 2048, "skipped": []}
    assert json.loads(Path("all.json").read_text()) == content


def test_definitions_of_toy_cities():
    assert config_hash(definition(toycity.ToyCityConfig())) == "13c96194e33d"
    assert config_hash(definition(toycity.CrossviewConfig())) == "809ec2131e6a"


def test_files_of_a_toy_city(tmp_path):
    """Bytes are the same on one machine alone (test_toycity_writer): here are names and numbers."""
    sizes = {f"{split}_places": 2 for split in ("train", "val", "test")}
    sizes |= {"images_per_place": 2, "val_queries": 1, "test_queries": 1, "blocks": 2}
    tiny = {"image_size": (24, 32), "val_conditions": ("snow",), "test_conditions": ("dusk",)}
    quiet = {"workers": 1, "progress": False}
    toycity.write_toycity(tmp_path, **sizes, **tiny, **quiet)
    toycity.write_limits(tmp_path, ("blur",), (0.0, 1.0), 1, **quiet)
    toycity.write_drive(tmp_path, ("dusk",), 60.0, **quiet)
    toycity.write_crossview(tmp_path / "cross", **sizes, image_size=16, **quiet)
    config = {"image_size": [24, 32], "blocks": 2, "train_places": 2, "images_per_place": 2}
    config |= {"val_places": 2, "test_places": 2, "val_queries": 1, "test_queries": 1}
    config |= {"val_conditions": ["snow"], "test_conditions": ["dusk"], "severity": 1.0}
    config |= {"train_seeds": [101, 102], "val_seed": 201, "test_seed": 301}
    city = {"recipe": 1, "config": config, "version": dinomix.__version__}
    limits = {"conditions": ["blur"], "severities": [0.0, 1.0], "queries": 1}
    drive = {"conditions": ["dusk"], "spacing": 60.0}
    day = {"image_size": 16, "val_conditions": ["day"], "test_conditions": ["day"], "extent": 50.0}
    for name, expected in (
        ("toycity", city | {"images": 18}),
        ("limits", city | {"images": 2, "arguments": limits}),
        ("drive", city | {"images": 6, "arguments": drive}),
        ("cross/crossview", city | {"images": 18, "config": config | day}),
    ):
        assert json.loads((tmp_path / f"{name}.json").read_text()) == expected, name
    found = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    names = sorted(n for p in found if not (n := p.as_posix()).startswith("images/limits/database"))
    assert (len(names), digest(names)) == (52, "eff5e633980e")
    csv = (tmp_path / "train/Dataframes/Coldport101.csv").read_text().splitlines()
    assert csv[1] == "0,2012,5,114,Coldport101,45.2620715,3.255117,dc88647943d680de525ddb"
    photos = [np.asarray(Image.open(tmp_path / name)) for name in names if name.endswith("jpg")]
    # Another machine may differ by a grey level here and there.
    assert np.mean([photo.mean() for photo in photos]) == pytest.approx(128.99, abs=0.5)
