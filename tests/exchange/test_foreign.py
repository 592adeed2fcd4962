"""A foreign module, and a function, through everything that takes models; what they cannot do."""

import copy
import re
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import dinomix
from dinomix import figures
from dinomix.attention import energy_attention, match_attention, rollout
from dinomix.exchange.opening import open_model
from dinomix.images import read_image
from dinomix.plumbing.errors import HubError
from dinomix.retrieval import load_images
from dinomix.scale.descriptors import model_hash
from dinomix.study import comparison
from dinomix.study.costs import costs
from dinomix.study.results import COLUMNS, save_results
from dinomix.widgets import patch_explorer, retrieval_browser
from tests.cli.test_cli import invoke, plain
from tests.conftest import write_image, write_places, write_testset
from tests.widgets.test_view import settle

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
HUBCONF = """
import torch
from helper import pooled  # beside hubconf.py

def small(pretrained=True):
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())

def ours():
    import dinomix
    return dinomix.build_model(dinomix.ModelConfig(backbone="toy_vits14", image_size=28))

def broken():
    raise KeyError("weights")
"""


class Net(nn.Module):
    """What an author may publish; `power` stands in no state."""

    def __init__(self, power=1):
        super().__init__()
        self.power = power
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 7, stride=7), nn.BatchNorm2d(6), nn.ReLU())

    def forward(self, images):
        return self.layers(images).pow(self.power).mean((2, 3))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().train()


@pytest.fixture(params=["module", "function"])
def wrapped(request, net):
    """The same model both ways."""
    if request.param == "module":
        return dinomix.wrap_model(net, 28, name="theirs")
    return dinomix.wrap_model(lambda images: net.eval()(images), 28, name="theirs")


@pytest.fixture
def test(test_root):
    return dinomix.TestSet(test_root)


def slowly(net, path, size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """The net's raw descriptor of one image, whose own size is `size`."""
    pixels = np.asarray(read_image(path)).astype(np.float64) / 255
    assert pixels.shape[:2] == size
    scaled = (pixels - mean) / std  # (H, W, 3)
    with torch.no_grad():
        return net.eval()(torch.from_numpy(scaled.transpose(2, 0, 1)[None]).float())[0].numpy()


def test_descriptors_are_the_modules_own(wrapped, net, test):
    expected = [slowly(net, path, (28, 28)) for path in test.queries]
    expected = [descriptor / np.linalg.norm(descriptor) for descriptor in expected]
    found = dinomix.describe(wrapped, test.queries, batch_size=3, device="cpu", progress=False)
    assert found == pytest.approx(np.array(expected), abs=1e-5)
    assert wrapped.dim == 6 and not net.training and "theirs: 28 x 28 px" in str(wrapped)
    images = load_images(wrapped, test.queries)
    assert wrapped(images).detach().numpy() == pytest.approx(found, abs=1e-5)


def test_native_size_other_normalisation_and_length(net, tmp_path):
    sizes = [(28, 42), (56, 28), (28, 42)]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, (height, width) in enumerate(sizes):
        write_image(paths[i], np.random.default_rng(i), (width, height))
    options = {"mean": list(MEAN), "std": np.array(STD), "normalise": False, "dim": 6}
    native = dinomix.wrap_model(net, "native", **options)
    found = dinomix.describe(native, paths, progress=False)
    assert load_images(native, paths[::2]).shape == (2, 3, 28, 42)
    with pytest.raises(ValueError, match="several sizes are no batch, so native is no size"):
        load_images(native, paths)
    pairs = zip(paths, sizes, strict=True)
    expected = np.array([slowly(net, path, size, MEAN, STD) for path, size in pairs])
    assert found == pytest.approx(expected, abs=1e-5)
    similarities, _ = dinomix.search(found, found, 3)
    assert similarities == pytest.approx(np.sort(expected @ expected.T)[:, ::-1], abs=1e-4)
    write_image(tmp_path / "odd.png", np.random.default_rng(0), (45, 31))
    odd = dinomix.wrap_model(net, "native", multiple_of=7)
    seen = []
    net.register_forward_hook(lambda module, given, _: seen.append(tuple(given[0].shape)))
    dinomix.describe(odd, [tmp_path / "odd.png"], progress=False)
    assert seen == [(1, 3, 28, 42)]
    at_own = dinomix.wrap_model(net, 28, mean=MEAN, std=STD, normalise=False)
    again = dinomix.describe(at_own, paths, image_size="native", progress=False)
    other = dinomix.wrap_model(net, 28, mean=MEAN, std=STD, normalise=False, multiple_of=28)
    assert again == pytest.approx(expected, abs=1e-5)
    assert dinomix.describe(other, paths[1:2], image_size="native", progress=False) == (
        pytest.approx(expected[1:2], abs=1e-5)
    )


def test_evaluate_retrieve_and_pictures(wrapped, test):
    table = dinomix.evaluate(wrapped, test, progress=False)
    said = table[["method", "backbone", "trained_blocks", "mix_depth", "dim"]].iloc[0]
    assert said.tolist()[:3] == ["theirs", "theirs", 0] and said["dim"] == 6
    assert pd.isna(said["mix_depth"])
    found = dinomix.retrieve(wrapped, test, k=3, progress=False)
    assert table.loc[table["k"] == 1, "recall"].iloc[-1] == found.table([1])["recall"].iloc[-1]
    cases = comparison.choose_cases({"theirs": found}, "theirs", {"light": ["day", "night"]})
    figures.comparison_rows({"theirs": found}, list(cases["query"]), list(cases["kind"]))


def test_a_name_that_is_an_aggregators(net, test):
    table = dinomix.evaluate(dinomix.wrap_model(net, 28, name="mix"), test, progress=False)
    assert table["mix_depth"].astype("Int64").isna().all()


def test_descriptors_on_disk_are_found_by_what_makes_them(wrapped, net, test, tmp_path):
    file = tmp_path / "d.npy"
    kept = dinomix.describe_to(file, wrapped, test.database, progress=False)
    assert kept == pytest.approx(dinomix.describe(wrapped, test.database, progress=False))
    calls = []
    net.register_forward_hook(lambda *call: calls.append(call[2].shape[0]))
    dinomix.describe_to(file, wrapped, test.database, progress=False)
    assert sum(calls) in (0, 3)  # of a function, its fingerprint
    for change in (lambda: setattr(net, "power", 2), lambda: net.layers[0].bias.data.add_(1)):
        before = model_hash(wrapped)
        change()
        again = dinomix.wrap_model(wrapped.module, 28, name="theirs")
        assert model_hash(again) != before
        wrapped = again
    with pytest.raises(ValueError, match=r"theirs: 28 x 28.*cannot be sent to a cluster"):
        dinomix.describe_to(tmp_path / "e.npy", wrapped, test.database, client=object())


def test_what_a_function_calls_may_change_meanwhile(net):
    wrapped = dinomix.wrap_model(lambda images: net.eval()(images), 28)
    before = model_hash(wrapped)
    assert model_hash(wrapped) == before
    net.layers[0].bias.data.add_(1)
    assert model_hash(wrapped) != before


def test_localize(wrapped, test):
    options = {"k": 2, "index": None, "progress": False}
    found = dinomix.localize(wrapped, test.database[0].parent, test.queries[0], **options)
    k_nearest = dinomix.retrieve(wrapped, test, k=2, progress=False).ranked[0]
    assert [str(test.database[i]) for i in k_nearest] == list(found.matches["image"])


def test_studies_test_it_once_and_train_nothing(wrapped, net, tmp_path):
    write_places(tmp_path / "places")
    write_testset(tmp_path / "city", conditions=("day", "night"))
    write_testset(tmp_path / "city", split="val")
    study = dinomix.Study.under(tmp_path, "places", "city", ["city", ["city", "val"]], ks=(1, 2))
    variant = dinomix.Variant("Theirs", wrapped, None)
    table = study.run([variant], progress=False)
    parts = [dinomix.evaluate(wrapped, test, (1, 2), progress=False) for test in study.test_sets()]
    assert table["recall"].tolist() == pytest.approx(pd.concat(parts)["recall"].tolist())
    assert set(table["method"]) == {"Theirs"} and set(table["run"]) == {"untrained"}
    assert set(table["backbone"]) == {"theirs"} and study.load(variant) is wrapped
    save_results(
        [table[[c for c in COLUMNS if c in table]].assign(profile="x")], tmp_path / "t.csv"
    )
    calls = []
    net.register_forward_hook(lambda *call: calls.append(call[2].shape[0]))
    pd.testing.assert_frame_equal(study.run([variant], progress=False), table)
    queries = study.queries([variant])
    assert max(calls, default=0) <= 2  # nothing but fingerprints
    first = queries[queries["dataset"] == study.test_sets()[0].name]
    found = dinomix.retrieve(wrapped, study.test_sets()[0], progress=False).queries()
    assert first["rank"].tolist() == found["rank"].tolist()
    assert set(queries["backbone"]) == {"theirs"} and set(queries["method"]) == {"Theirs"}
    smaller = dinomix.Variant("Theirs", wrapped, None, image_size=14)
    table = study.run([smaller, variant], progress=False)
    assert list(dict.fromkeys(table["image_size"])) == ["14 x 14", "28 x 28"]
    at_14 = dinomix.evaluate(wrapped, study.test_sets()[0], (1, 2), image_size=14, progress=False)
    assert table["recall"].tolist()[: len(at_14)] == pytest.approx(at_14["recall"].tolist())
    learning = dinomix.Variant("Theirs", wrapped, dinomix.TrainConfig(places_per_batch=2))
    with pytest.raises(ValueError, match="only models that dinomix builds can be trained"):
        study.run([learning], progress=False)


def test_widgets(wrapped, test, tmp_path):
    view = settle(retrieval_browser([test], {"theirs": wrapped}, cache=tmp_path / "kept"))
    assert view.message.value == "" and "query 1 of 10" in view.status.value
    assert len(list((tmp_path / "kept").iterdir())) == 2
    explorer = settle(patch_explorer([test], {"theirs": wrapped}))
    assert "theirs is a foreign model" in explorer.message.value


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, images, out: match_attention(model, images, images),
        lambda model, images, out: energy_attention(model, images),
        lambda model, images, out: rollout(model, images),
        lambda model, images, out: dinomix.describe(model, ["a"], frozen={"a": images[0]}),
    ],
    ids=["match", "energy", "rollout", "frozen"],
)
def test_parts_are_not_shown(wrapped, test, ask):
    with pytest.raises(ValueError, match="theirs is a foreign model, which shows nothing but"):
        ask(wrapped, load_images(wrapped, test.queries[:2]), None)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, root: dinomix.save_model(model, root / "m.safetensors"),
        lambda model, root: dinomix.export_onnx(model, root / "m.onnx"),
        lambda model, root: dinomix.export_program(model, root / "m.pt2"),
        lambda model, root: costs(model.config),
        lambda model, root: costs(model),
        lambda model, root: train(model.config, root),
        lambda model, root: train(dinomix.PRESETS["dino_mix_toy"], root, start=model),
    ],
    ids=["save", "onnx", "program", "costs", "costs of a model", "train", "start"],
)
def test_what_takes_a_model_of_dinomix(wrapped, tmp_path, ask):
    with pytest.raises(ValueError, match="trained, saved, exported or measured"):
        ask(wrapped, tmp_path)
    assert not [*tmp_path.glob("m.*"), *tmp_path.glob("runs/*")]


def train(config, root, **options):
    places = dinomix.PlaceDataset(write_places(root / "places"))
    val = dinomix.TestSet(write_testset(root / "city"))
    recipe = dinomix.TrainConfig(epochs=1, places_per_batch=2)
    return dinomix.train(config, places, val, recipe, out=root / "runs", **options)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda images: (images.mean((2, 3)), images), r"tuple of images \(1, 3, 28, 28\)"),
        (lambda images: images, r"makes \(1, 3, 28, 28\) of images"),
        (lambda images: images[:1].mean((2, 3)), r"makes \(1, 3\) of images \(2, .*not \(2, 3\)"),
        (lambda images: images.mean((2, 3)).squeeze(), r"makes \(3,\) of images \(1, 3"),
        (lambda images: images.mean((2, 3)).numpy(), "makes ndarray of images"),
        (lambda images: images.mean((2, 3)) * torch.nan, "not finite"),
        (lambda images: torch.rand(len(images), 9), "in other company, or every time"),
        (lambda images: (images - images.mean(0)).mean((2, 3)), "put whatever it calls into eval"),
        (nn.Linear(9, 9), r"Linear cannot take images \(1, 3, 28, 28\): RuntimeError"),
        ("net", "str cannot take images.*'str' object is not callable"),
    ],
)
def test_wrong_modules(made, message):
    with pytest.raises(ValueError, match=message):
        dinomix.wrap_model(made, 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 5}, r"makes \(1, 6\) of images \(1, 3, 28, 28\), not \(1, 5\)"),
        ({"image_size": "naive"}, "image_size must be a number"),
        ({"image_size": 3}, r"Net cannot take images \(1, 3, 3, 3\)"),
        ({"mean": (0.5, 0.5)}, r"ForeignConfig\.mean is"),
        ({"mean": (124, 116, 104)}, r"mean is 124; it should be a list of what is at most 1$"),
        ({"name": 5}, "name is 5; it should be text"),
        ({"std": (1, 0, 1)}, r"ForeignConfig\.std is 0; .*greater than 0"),
        ({"multiple_of": 0}, r"multiple_of is 0; it should be at least 1"),
    ],
)
def test_wrong_options(net, options, message):
    with pytest.raises(ValueError, match=message):
        dinomix.wrap_model(net, **{"image_size": 28, **options})


def test_later_images_are_looked_at_as_the_first(net, test):
    wrapped = dinomix.wrap_model(net, 28)
    with pytest.raises(ValueError, match=r"Net cannot take images \(10, 3, 5, 5\)"):
        dinomix.describe(wrapped, test.queries, image_size=5, device="cpu", progress=False)
    net.layers[0].weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=re.escape(str(test.queries[0]))):
        dinomix.describe(wrapped, test.queries, progress=False)


def test_copies_keep_everything(wrapped):
    twin = copy.deepcopy(wrapped)
    assert (
        twin.dim == 6 and twin.config == wrapped.config and model_hash(twin) == model_hash(wrapped)
    )


@pytest.fixture
def repository(tmp_path):
    """A clone of what authors publish."""
    folder = tmp_path / "MegaPlaces"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    (folder / "helper.py").write_text("pooled = True\n")
    return folder


def test_code_of_a_hub_runs_only_with_trust(repository):
    with pytest.raises(
        ValueError, match=r"would run code, small\(\) in hubconf.py of .*MegaPlaces"
    ):
        open_model(f"torchhub:{repository}:small")
    model = open_model(f"torchhub:{repository}:small", trust=True, image_size=(28, 42))
    assert model.dim == 12 and model.config.name == "MegaPlaces:small"
    assert model.config.image_size == (28, 42)
    assert open_model(f"torchhub:{repository}:small", trust=True).config.image_size == (322, 322)
    assert isinstance(open_model(f"torchhub:{repository}:ours", trust=True), dinomix.PlaceModel)
    where = "of https://github.com/gmberton/MegaLoc: read it"
    with pytest.raises(ValueError, match=where):
        open_model("torchhub:gmberton/MegaLoc:get_trained_model")
    for wrong in ("torchhub:", "torchhub:small", "torchhub:a/b:"):
        with pytest.raises(ValueError, match=f"{wrong} should be torchhub:owner"):
            open_model(wrong, trust=True)


def test_a_hub_that_gives_nothing(repository, tmp_path, monkeypatch):
    def no_network(address):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(HubError, match=r"no internet connection.*give the folder of a clone"):
        open_model("torchhub:gmberton/MegaLoc:get_trained_model", trust=True)
    for entry, reason in (("broken", "KeyError: 'weights'"), ("nothing", "Cannot find callable")):
        with pytest.raises(HubError, match=f"no {entry} of .*MegaPlaces .*{reason}"):
            open_model(f"torchhub:{repository}:{entry}", trust=True)


def test_the_command_line(repository, test_root, tmp_path):
    source = f"torchhub:{repository}:small"
    refused = invoke("evaluate", source, test_root)
    assert refused.exit_code == 1 and "would run code" in plain(refused.stderr)
    table = invoke("evaluate", source, test_root, "--trust", "--csv")
    assert table.exit_code == 0 and "MegaPlaces:small" in table.stdout
    photos = test_root / "images" / "test" / "database"
    asked = ("--database", photos, "--query", next(photos.iterdir()), "--model", source)
    assert invoke("localize", *asked).exit_code == 1
    assert "similarity" in plain(invoke("localize", *asked, "--trust").stdout)
    sized = invoke("evaluate", source, test_root, "--trust", "--image-size", "native", "--csv")
    assert "native" in sized.stdout and "322 x 322" in table.stdout
    start = invoke("train", write_places(tmp_path / "p"), "--hold-out", 0.2, "--start", source)
    assert start.exit_code == 2 and "a foreign model cannot be trained" in plain(start.stderr)
