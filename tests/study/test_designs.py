"""Designs: which models a notebook's parameters stand for, before any data is there."""

import dataclasses

import pandas as pd
import pytest
import torch

import dinomix
from dinomix.images import as_size
from dinomix.model import TEST_SIZES, outline
from dinomix.plumbing import provenance
from dinomix.plumbing.errors import MissingDataError
from dinomix.study.designs import Setup, lineup, open_profile
from dinomix.study.results import COLUMNS, QUERY_COLUMNS, queries_beside
from dinomix.study.study import Study, Variant, variants
from tests.exchange.test_published import mixvpr_shapes, random_tensors

COMMON = {
    **{"profile": "p", "required": {}, "train_folder": "city/train", "val_folder": "city"},
    **{"test_folders": ["city", ["city", "limits"]], "images_per_place": 2},
    **{"backbone": "toy_vits14", "image_size": 56, "out_channels": 8, "weights": "w.pth"},
    **{"preset": "toy", "train_changes": {"epochs": 1}, "seeds": [4, 5]},
}
BASE = dinomix.ModelConfig(backbone="toy_vits14", image_size=56, out_channels=8)


@pytest.fixture
def setup(tmp_path):
    """Makes a setup of other parameters; its data folder is not there."""
    return lambda **changes: Setup(tmp_path / "data", {**COMMON, **changes})


def changed(**fields):
    return dataclasses.replace(BASE, **fields)


def test_a_notebook_that_varies_nothing_trains_one_model(setup, tmp_path):
    data = tmp_path / "data"
    recipe = dinomix.TrainConfig.preset("toy", epochs=1)
    ((study, variants),) = setup(ks=[1]).experiments()
    assert variants == [Variant("DINO-Mix", BASE, recipe, data / "w.pth", s) for s in (4, 5)]
    assert study == Study(
        places=data / "city" / "train",
        val=data / "city",
        tests=[data / "city", (data / "city", "limits")],
        out=data / "runs",
        images_per_place=2,
        ks=[1],
    )
    one = {k: v for k, v in COMMON.items() if k not in ("seeds", "test_folders")}
    ((study, variants),) = Setup(data, {**one, "seed": 7, "test_folder": "city"}).experiments()
    assert variants == [Variant("DINO-Mix", BASE, recipe, data / "w.pth", 7)]
    assert study.tests == [data / "city"] and study.ks == (1, 5, 10)
    assert Setup(data, {"profile": "p", "required": {}}).experiments() == []  # without a recipe
    assert [variants for _, variants in setup(watched=None).experiments()] == [[]]  # notebook 10
    assert not data.exists()


@pytest.mark.parametrize(
    ("parameters", "models"),
    [
        ({"depths": [0, 7]}, {"L = 0": changed(mix_depth=0), "L = 7": changed(mix_depth=7)}),
        (
            {"shapes": [[64, 2], [128, 4]]},
            {
                "128-d": changed(out_channels=64, out_rows=2),
                "512-d": changed(out_channels=128, out_rows=4),
            },
        ),
        (
            {"lineup": "toy", "methods": ["GeM, ViT", "DINO-Mix"]},
            {"GeM, ViT": changed(aggregator="gem"), "DINO-Mix": BASE},
        ),
    ],
)
def test_what_an_experiment_varies(setup, parameters, models):
    found = setup(**parameters).variants()
    assert [(v.method, v.model) for v in found] == [m for m in models.items() for _ in range(2)]
    assert [v.seed for v in found] == [4, 5] * len(models)


def test_backbones_with_their_own_weights(setup, tmp_path):
    backbones = {"toy_vits14": "hub", "toy_vitb14": "b.pth", "dinov2_vits14": None}
    found = setup(backbones=backbones, blocks=[0, 3], seeds=[0]).variants()
    assert [v.method for v in found] == [f"{name}, {n}" for name in backbones for n in (0, 3)]
    assert [v.model.trained_blocks for v in found] == [0, 3] * 3
    files = ["hub", tmp_path / "data" / "b.pth", None]
    assert [v.weights for v in found] == [file for file in files for _ in range(2)]


def test_the_robust_recipe_joins_the_line_up(setup):
    robust = {"augment": "robust"}
    made = setup(lineup="toy", methods=None, robust_changes=robust, seeds=[0])
    assert list(made.methods) == [*lineup("toy"), "DINO-Mix, robust"]
    last = made.variants()[-1]
    assert last.model == BASE and last.train == dataclasses.replace(made.recipe, augment="robust")


def test_two_views_are_two_studies(setup, tmp_path):
    data = tmp_path / "data"
    (street, on_street), (both, on_both) = setup(crossview_folder="air").experiments()
    assert (street.places, street.val) == (data / "city" / "train", data / "city")
    assert (both.places, both.val) == (data / "air" / "train", data / "air")
    assert street.tests == both.tests == [data / "air"]
    assert {v.method for v in on_street} == {"DINO-Mix"}
    assert {v.method for v in on_both} == {"DINO-Mix, trained on both views"}


def test_opening_a_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"gsv(.|\n)*from its authors"):
        open_profile({**COMMON, "required": {"gsv": "from its authors"}})
    with pytest.raises(FileNotFoundError, match="parts of city: run notebook 00 or `make demo`"):
        open_profile(COMMON)
    (tmp_path / "city").mkdir()
    setup = open_profile(COMMON)
    assert setup.figures == tmp_path / "figures" / "p"
    assert setup.results.is_dir()  # a table can be written there
    rows = pd.DataFrame([dict.fromkeys(COLUMNS, 1)]).drop(columns="profile")
    table = setup.save(rows, "tried")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results" / "p" / "tried.csv"), table)
    assert table["profile"].tolist() == ["p"]
    told = provenance.read(tmp_path / "results" / "p" / "tried.csv")
    assert (told["profile"], told["version"]) == ("p", dinomix.__version__)


def test_a_table_is_written_for_papers_and_says_what_made_it(setup):
    profile = setup()
    table = pd.DataFrame({"method": ["a & b", "c"], "recall": [100 / 3, 50.0]})
    shown = profile.save_table(table, "03_v1.0")
    folder = profile.figures / "tables"
    files = [folder / f"03_v1.0{suffix}" for suffix in (".csv", ".md", ".tex")]
    assert {p.name for p in folder.iterdir()} == {f.name for f in files} | {
        "03_v1.0.provenance.json"
    }
    pd.testing.assert_frame_equal(pd.read_csv(files[0]), table)
    facts = [provenance.read(file) for file in files]
    assert facts[0]["version"] == dinomix.__version__ and facts.count(facts[0]) == 3
    assert files[1].read_text().endswith("| a & b | 33.3 |\n| c | **50.0** |\n")
    assert "\na \\& b & 33.3 \\\\\nc & \\textbf{50.0} \\\\\n" in files[2].read_text()
    assert "a &amp; b" in shown.to_html() and "font-weight: bold" in shown.to_html()


def test_other_tables_are_kept_with_what_their_rows_are_called(setup):
    profile = setup()
    table = pd.DataFrame({"first": [1.5]}, pd.Index(["day"], name="condition"))
    assert profile.keep(table, "07_x") is table
    found = pd.read_csv(profile.results / "07_x.csv", index_col="condition")
    pd.testing.assert_frame_equal(found, table)
    assert provenance.read(profile.results / "07_x.csv")["version"] == dinomix.__version__


def test_a_measurement_keeps_results_and_queries(setup, monkeypatch):
    profile = setup()
    profile.results.mkdir(parents=True)
    rows = pd.DataFrame([dict.fromkeys(COLUMNS, 1)]).drop(columns="profile")
    asked = pd.DataFrame([dict.fromkeys([*QUERY_COLUMNS, "error_m"], "1")])
    asked = asked.astype({"seed": int, "rank": "Int64"})
    monkeypatch.setattr(Study, "run", lambda self, variants: rows)
    monkeypatch.setattr(Study, "queries", lambda self, variants: asked)
    results, queries = profile.measure("tried")
    pd.testing.assert_frame_equal(pd.read_csv(profile.results / "tried.csv"), results)
    beside = queries_beside(profile.results / "tried.csv")
    pd.testing.assert_frame_equal(beside, queries[QUERY_COLUMNS])


@pytest.mark.parametrize(
    ("parameters", "folders"),
    [
        ({"val_folder": "val", "test_folders": [["far/city", "limits"]]}, ["city", "far", "val"]),
        ({"test_folders": ["pitts30k-val", "tokyo247"]}, ["city", "pitts30k", "tokyo247"]),
        ({"city_folder": "town"}, ["city", "town"]),
        ({"city_folder": "city", "city": {}}, []),  # the notebook renders it
        ({"city_folder": ""}, ["city"]),
    ],
)
def test_which_data_sets_a_notebook_reads(setup, parameters, folders):
    assert sorted(setup(**parameters).sets()) == folders


CELL = "\n".join(f"{name} = {value!r}" for name, value in COMMON.items())


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("sedes = [1]", "this notebook has no parameter 'sedes'; did you mean 'seeds'"),
        ("seeds = '[0, 1]'", r"seeds of this notebook is '\[0, 1\]'; .*like \[4, 5\] .*-y"),
        ("seeds = 0", r"seeds of this notebook is 0; .*like \[4, 5\]$"),
    ],
)
def test_what_papermill_alone_gives_is_checked(given, complaint):
    cells = {"In": ["", CELL, f"# Parameters\n{given}\n", "now"]}
    with pytest.raises(ValueError, match=complaint):
        open_profile(COMMON | cells)


def test_what_papermill_alone_changes_goes_to_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path))
    (tmp_path / "city").mkdir()

    def profile(*cells):
        return open_profile(COMMON | {"In": ["", *cells, "now"]}).results.name

    injected = "# Parameters\n"
    own = profile(CELL, injected + "seeds = [7]\n")
    assert own.startswith("p-") and own in capsys.readouterr().out
    assert profile(CELL, injected + "seeds = [8]\n") not in ("p", own)
    assert "other parameters" in capsys.readouterr().out
    for cells in (
        (CELL, injected + "seeds = [4, 5]\n"),  # nothing else than the notebook says
        (CELL, injected + 'profile = "p"\nseeds = [7]\n'),  # as a profile gives it
        (CELL, "seeds = [7]"),  # by hand
        ("import this", injected + "seeds = [7]\n"),  # executed again, out of order
    ):
        assert profile(*cells) == "p"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["toy", "paper"])
def test_every_model_of_a_line_up_builds(name):
    base = dinomix.PRESETS["dino_mix_toy" if name == "toy" else "dino_mix"]
    found = variants(lineup(name), base, dinomix.TrainConfig())
    both = [method for method in lineup("toy") if name == "toy" or "random start" not in method]
    assert [v.method for v in found] == both  # but for that, they name the same methods
    for variant in found:
        model = outline(variant.model)
        assert ("frozen" in variant.method) == (variant.train is None)
        on_vit = "ViT" in variant.method or variant.method.startswith(("DINO-Mix", "SALAD", "BoQ"))
        assert model.backbone.has_token == on_vit
        preset = lineup(name)[variant.method].get("preset")
        size = TEST_SIZES.get(preset)
        assert variant.image_size == (as_size(size) if size else None)
        if name == "toy" and variant.model.aggregator != "gem":
            assert model.dim == (768 if variant.method == "NetVLAD, ViT" else 512), variant.method


def test_methods_of_a_line_up_are_chosen_by_name():
    assert list(lineup("toy", ["GeM", "DINO-Mix"])) == ["GeM", "DINO-Mix"]
    with pytest.raises(ValueError, match=r"no methods \['Vlad'\].*'NetVLAD'"):
        lineup("toy", ["Vlad"])
    with pytest.raises(ValueError, match="no line-up 'real'; there are paper, published, toy"):
        lineup("real")


def test_the_published_line_up_is_what_lies_in_the_data_folder(setup, tmp_path):
    made = setup(lineup="published", methods=None)
    with pytest.raises(MissingDataError, match=r"no published checkpoint lies in .*checkpoints: "):
        made.variants()
    folder = tmp_path / "data" / "checkpoints"
    folder.mkdir(parents=True)
    tensors = random_tensors(mixvpr_shapes(n=16, depth=1, d=8, r=2))
    for name in ("resnet50_MixVPR_128_channels(64)_rows(2).ckpt", "mine.pth"):
        torch.save(tensors, folder / name)
    found = made.variants()
    assert [(v.method, v.weights.name) for v in found] == [
        ("mine.pth", "mine.pth"),
        ("mixvpr-128", "resnet50_MixVPR_128_channels(64)_rows(2).ckpt"),
    ]
    assert {v.model for v in found} == {dinomix.load_published(folder / "mine.pth").config}
    assert all(v.train is None and v.published for v in found)
    assert list(made.sets()) == ["city"]  # its tests alone, see below
    assert list(lineup("published", ["mine.pth"], tmp_path / "data")) == ["mine.pth"]
    with pytest.raises(ValueError, match=r"no methods \['mixvpr'\]; did you mean 'mixvpr-128'"):
        lineup("published", ["mixvpr"], tmp_path / "data")

    apart = {"train_folder": "gsv-cities", "val_folder": "pitts30k-val"}
    assert list(setup(lineup="published", methods=None, **apart).sets()) == ["city"]
    assert set(setup(lineup="toy", methods=None, **apart).sets()) == {
        *("gsv-cities", "pitts30k", "city")
    }
    method = {"mine": {"published": folder / "mine.pth", "out_channels": 4}}
    with pytest.raises(ValueError, match="mine is published as it is: leave out out_channels"):
        variants(method, BASE, dinomix.TrainConfig())
    (folder / "mine.pth").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"mine\.pth: .*mine\.pth is damaged"):
        made.variants()
