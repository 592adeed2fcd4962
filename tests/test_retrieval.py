import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from dinomix.backbones import normalization
from dinomix.data import TestSet
from dinomix.evaluation import evaluate, retrieve
from dinomix.images import UnreadableImageError
from dinomix.model import ModelConfig, build_model
from dinomix.retrieval import (
    SkippedImageWarning,
    describe,
    load_images,
    pick_device,
    skipped_images,
)
from dinomix.scale.search import search
from tests.conftest import write_image, write_testset


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(
        ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8, out_rows=2)
    )


def normalised_one_by_one(model, paths):
    """Images as float32 from the start, not as bytes until the batch: (B, 3, H, W)."""
    mean, std = normalization(model.config.backbone)
    normalise = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    )
    size = model.config.size[::-1]
    images = [Image.open(path).resize(size, Image.Resampling.BILINEAR) for path in paths]
    return torch.stack([torch.as_tensor(normalise(image)) for image in images])


@pytest.mark.parametrize("workers", [0, 2])
def test_bytes_until_the_batch_change_no_bit(model, test_root, workers):
    paths = TestSet(test_root).queries
    images = normalised_one_by_one(model, paths)
    assert torch.equal(load_images(model, paths), images)
    with torch.inference_mode():
        expected = torch.cat([model.eval()(part) for part in images.split(4)])
    found = describe(model, paths, batch_size=4, workers=workers, device="cpu", progress=False)
    assert torch.equal(torch.from_numpy(found), expected)


def test_descriptors_do_not_depend_on_the_batch(model, test_root):
    test = TestSet(test_root)
    whole = describe(model, test.queries, batch_size=10, progress=False)
    single = describe(model, test.queries, batch_size=1, progress=False)
    in_workers = describe(model, test.queries, batch_size=3, workers=2, progress=False)
    assert whole.shape == (10, model.dim) and whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(single, whole, atol=1e-6)
    np.testing.assert_allclose(in_workers, whole, atol=1e-6)
    backwards = describe(model, test.queries[::-1], batch_size=3, progress=False)
    np.testing.assert_allclose(backwards[::-1], whole, atol=1e-6)


def test_describe_keeps_the_mode_of_the_model_which_can_still_be_trained(model, test_root):
    paths = TestSet(test_root).queries[:1]
    for training in (True, False):
        model.train(training)
        describe(model, paths, progress=False)
        assert model.training is training
    assert describe(model, [], progress=False).shape == (0, model.dim)
    assert not any(p.is_inference() for p in model.parameters())
    model(torch.randn(2, 3, 28, 28)).sum().backward()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_broken_weights_are_noticed_and_never_skipped(test_root, on_error):
    model = build_model(ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8))
    with torch.no_grad():
        model.aggregator.row_proj.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        describe(model, TestSet(test_root).queries, on_error=on_error, progress=False)


# ---------------------------------------------------------------------------------- image sizes

SALAD = {"clusters": 5, "cluster_dim": 4, "token_dim": 4, "hidden": 8}
SIZES = [(60, 57), (31, 90), (60, 57), (30, 94), (28, 28), (57, 60)]  # width, height


def built(backbone, aggregator, size=28, **options):
    torch.manual_seed(0)
    fields = {"out_channels": 8, "image_size": size, "aggregator_options": options}
    return build_model(ModelConfig(backbone=backbone, aggregator=aggregator, **fields))


@pytest.fixture
def mixed(tmp_path):
    """Images of several sizes, as `SIZES`."""
    paths = [tmp_path / f"{i}.jpg" for i in range(len(SIZES))]
    for path, size in zip(paths, SIZES, strict=True):
        write_image(path, np.random.default_rng(size), size)
    return paths


@pytest.mark.parametrize(
    ("backbone", "aggregator", "options"),
    [
        ("toy_vits14", "gem", {}),
        ("toy_vits14", "netvlad", {"clusters": 3}),
        ("toy_vits14", "convap", {}),
        ("toy_vits14", "cosplace", {}),
        ("toy_vits14", "salad", SALAD),
        ("toy_vits14", "boq", {"channels": 8, "queries": 3}),
        ("dinov2_vits14", "gem", {}),
        ("dinov2_vits14_reg", "gem", {}),  # resizes positions another way
        ("dinov3_vits16", "gem", {}),
        ("toy_resnet", "gem", {}),
    ],
)
def test_another_size_is_as_if_the_model_were_built_for_it(mixed, backbone, aggregator, options):
    size = (64, 80) if backbone.startswith("dinov3") else (56, 84)
    model = built(backbone, aggregator, size[0], **options)
    there = build_model(replace(model.config, image_size=size))
    there.load_state_dict(model.state_dict())
    found = describe(model, mixed, image_size=size, progress=False)
    assert np.array_equal(found, describe(there, mixed, progress=False))
    assert not np.allclose(found, describe(model, mixed, progress=False), atol=1e-4)
    assert np.array_equal(found, describe(there, mixed, image_size=size, progress=False))


@pytest.mark.parametrize("backbone", ["toy_vits14", "toy_resnet"])
@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (4, 2), (32, 0)])
def test_each_image_at_its_own_size(mixed, backbone, batch_size, workers):
    """As each alone, on a model built at its size; rows in the order of the paths."""
    model = built(backbone, "gem")
    expected = []
    for path, (width, height) in zip(mixed, SIZES, strict=True):
        size = (height, width)
        if backbone == "toy_vits14":
            size = (height // 14 * 14, width // 14 * 14)
        alone = build_model(replace(model.config, image_size=size))
        alone.load_state_dict(model.state_dict())
        expected.append(alone.eval()(load_images(alone, [path]))[0].detach().numpy())
    options = {"batch_size": batch_size, "workers": workers, "progress": False}
    found = describe(model, mixed, image_size="native", **options)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    mixed[1].write_bytes(b"broken")
    with pytest.warns(SkippedImageWarning, match="1.jpg"):
        again = describe(model, mixed, image_size="native", on_error="skip", **options)
    assert skipped_images(mixed, again) == [mixed[1]] and np.isnan(again[1]).all()
    np.testing.assert_allclose(np.delete(again, 1, 0), np.delete(expected, 1, 0), atol=1e-6)


SWIN = "timm/swin_tiny_patch4_window7_224"


@pytest.mark.parametrize(
    ("backbone", "aggregator", "image_size", "complaint"),
    [
        ("toy_vits14", "mix", 56, r"of mix on toy_vits14 fit images of 28 x 28 only, not 56 x 56"),
        ("toy_vits14", "mix", "native", r"fit images of 28 x 28 only, not native"),
        ("toy_resnet", "mix", (28, 56), r"fit images of 28 x 28 only, not 28 x 56"),
        (SWIN, "gem", 224, r"gem on timm/swin\S* fit images of 64 x 64 only, not 224 x 224"),
        ("toy_vits14", "gem", (28, 40), r"multiples of 14 .* not 28x40: .* 28x28, 28x42"),
        ("toy_vits14", "gem", "nativ", r"image_size must be .*'native', not 'nativ'"),
        ("toy_vits14", "gem", 0, r"image_size must be positive integers, not 0"),
    ],
)
def test_a_size_that_does_not_fit_is_said_before_an_image_is_read(
    backbone, aggregator, image_size, complaint
):
    model = built(backbone, aggregator, 64 if backbone == SWIN else 28)
    with pytest.raises(ValueError, match=complaint):
        describe(model, ["nowhere.jpg"], image_size=image_size, progress=False)


def test_the_own_size_of_a_mixer_may_be_asked_for(model, mixed):
    found = describe(model, mixed, image_size=(28, 28), progress=False)
    assert np.array_equal(found, describe(model, mixed, progress=False))


def test_an_image_that_is_too_small_at_its_own_size_is_named(mixed):
    model = built("toy_vits14", "salad", 56, **SALAD)
    with pytest.raises(ValueError, match=r"4\.jpg: SALAD.* maps of 2x2 .*larger images"):
        describe(model, mixed, image_size="native", progress=False)


def test_frozen_features_are_of_one_size(mixed):
    with pytest.raises(ValueError, match=r"of 28 x 28 images, not 56 x 56"):
        describe(built("toy_vits14", "gem"), mixed, image_size=56, frozen={}, progress=False)


def test_device_by_name():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize("name", ["cuda:99", "cuda:x", "gpu", "meta", "", None, 1.5])
def test_a_device_that_is_not_here_is_one_line(model, test_root, name):
    """Said before the first image is read."""
    with pytest.raises(
        ValueError, match=rf"^device '{name}' cannot be used here; choose .*auto, .*cpu$"
    ):
        describe(model, ["nowhere.jpg"], device=name, progress=False)


@pytest.mark.parametrize(
    ("gpus", "mps", "here"),
    [
        (0, False, ["cpu"]),
        (2, False, ["cuda", "cuda:0", "cuda:1", "cpu"]),
        (0, True, ["mps", "mps:0", "cpu"]),
    ],
)
def test_a_device_is_what_the_machine_has(monkeypatch, gpus, mps, here):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert str(pick_device("auto")) == here[0]
    for name in ("cpu", "cuda", "cuda:0", "cuda:1", "cuda:2", "mps", "mps:0"):
        if name in here:
            assert pick_device(name) == pick_device(torch.device(name)) == torch.device(name)
        else:
            with pytest.raises(ValueError, match=f"'{name}' cannot be .* auto, {', '.join(here)}$"):
                pick_device(name)


# ------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_skipped_where_that_is_asked_for(model, test_root, workers):
    paths = TestSet(test_root).queries
    whole = describe(model, paths, progress=False)
    paths[3].write_bytes(b"broken")
    paths[9].write_bytes(b"")
    options = {"batch_size": 4, "workers": workers, "progress": False}
    with pytest.raises(UnreadableImageError) as error:
        describe(model, paths, **options)
    assert str(paths[3]) in str(error.value)
    with pytest.warns(SkippedImageWarning) as told:
        found = describe(model, paths, on_error="skip", **options)
    assert skipped_images(paths, found) == [paths[3], paths[9]]
    assert np.isnan(found[[3, 9]]).all()
    np.testing.assert_allclose(np.delete(found, [3, 9], 0), np.delete(whole, [3, 9], 0), atol=1e-6)
    for path in (paths[3], paths[9]):
        assert sum(f"cannot decode the image {path}: " in str(w.message) for w in told) == 1


def test_a_test_set_takes_names_of_all_kinds(model, tmp_path):
    plain = TestSet(write_testset(tmp_path / "plain"))
    odd = tmp_path / "città @1@2@ 北"
    shutil.copytree(tmp_path / "plain", odd)
    for i, path in enumerate(TestSet(odd).queries):
        tail = os.fsdecode(b"\xff") if i == 0 and os.name != "nt" else "@@ ü b"
        path.rename(path.with_name(f"a b{path.stem}{tail}.jpg"))
    test = TestSet(odd)
    assert np.array_equal(test.query_utm, plain.query_utm)
    assert test.fingerprint != plain.fingerprint
    ours, expected = (evaluate(model, t, progress=False)["recall"] for t in (test, plain))
    assert ours.tolist() == expected.tolist()


def test_a_missing_image_is_never_skipped_and_on_error_is_one_of_two_words(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        describe(model, [tmp_path / "nowhere.jpg"], on_error="skip", progress=False)
    with pytest.raises(ValueError, match=r"'ignore'.*raise, skip"):
        describe(model, [], on_error="ignore", progress=False)


@pytest.mark.filterwarnings("ignore::dinomix.retrieval.SkippedImageWarning")
def test_damage_never_makes_a_recall_look_better(model, test_root):
    """A damaged query is a failure, a damaged database image is never found; both are listed."""
    test = TestSet(test_root)
    whole = retrieve(model, test, k=5, progress=False)
    assert whole.skipped == [] and whole.ranked.shape == (10, 5)
    test.queries[2].write_bytes(b"broken")
    test.database[4].write_bytes(b"broken")
    with pytest.raises(UnreadableImageError):
        evaluate(model, test, progress=False)
    found = retrieve(model, test, k=5, on_error="skip", progress=False)
    assert found.skipped == [test.database[4], test.queries[2]]
    assert found.ranked.shape == (10, 4)  # there are no more
    assert (found.ranked[2] == -1).all()
    others = np.delete(np.arange(10), 2)
    for row in others:
        left = whole.ranked[row][whole.ranked[row] != 4]
        assert found.ranked[row].tolist() == left.tolist()
    table = evaluate(model, test, ks=(1, 5), on_error="skip", progress=False)
    assert table.attrs["skipped"] == [str(test.database[4]), str(test.queries[2])]
    overall = table[table["condition"] == "all"].set_index("k")
    assert overall["queries"].tolist() == [10, 10]
    reachable = [row for row in others if set(found.positives[row]) - {4}]
    assert overall.loc[5, "recall"] == 10.0 * len(reachable)


def brute_force(database, queries, k):
    """Best first among rows that are no NaN; -1 for a query that is one."""
    ranked = []
    for query in queries:
        scores = [(-float(row @ query), i) for i, row in enumerate(database) if all(row == row)]
        ranked.append([i for _, i in sorted(scores)[:k]])
    count = max(map(len, ranked))
    return [[-1] * count if any(np.isnan(q)) else r for q, r in zip(queries, ranked, strict=True)]


@pytest.mark.parametrize("scan", ["float32", "bfloat16"])
@pytest.mark.parametrize("k", [3, 200, 500])
def test_search_never_returns_a_skipped_image(scan, k):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 16), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    database, queries = rows[:260], rows[260:].copy()
    database[rng.permutation(260)[:90]] = np.nan
    database[40:80] = np.nan  # whole blocks of them
    database[5, 3] = database[6, 15] = np.nan
    queries[0], queries[7, 9] = np.nan, np.nan
    similarities, ranked = search(database, queries, k, scan=scan, block_bytes=20 * 64)
    assert ranked.tolist() == brute_force(database, queries, k)
    assert (similarities[[0, 7]] == -np.inf).all()
    assert np.isfinite(np.delete(similarities, [0, 7], 0)).all()


def test_search_among_nothing_but_skipped_images_finds_nothing():
    nothing = np.full((4, 8), np.nan, np.float32)
    query = np.eye(1, 8, dtype=np.float32)
    assert search(nothing, query, 2)[1].shape == (1, 0)
    assert search(np.eye(4, 8, dtype=np.float32), nothing, 2)[1].tolist() == [[-1, -1]] * 4
