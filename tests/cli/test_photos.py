"""The command `dinomix localize`."""

import json
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from dinomix.localization import stand_in
from dinomix.localization.index import NAME
from dinomix.model import ModelConfig, build_model, save_model
from tests.cli.test_cli import invoke, plain
from tests.conftest import write_image, write_testset

localize = partial(invoke, "localize")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder `photos` with three photos, a query, and a small model."""
    rng = np.random.default_rng(0)
    for i in range(2):
        write_image(tmp_path / "photos" / f"@{400_000 + 10 * i}@5000000@31@T@p{i}@.jpg", rng)
    write_image(tmp_path / "photos" / "old" / "unknown.jpg", rng)
    write_image(tmp_path / "q.jpg", rng)
    torch.manual_seed(0)
    config = ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8, out_rows=2)
    save_model(build_model(config), tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


ASKED = ("--database", "photos", "--query", "q.jpg")
MODEL = ("--model", "m.safetensors")


def test_table(here):
    result = localize(*ASKED, *MODEL)
    text = plain(result.stdout)
    assert result.exit_code == 0
    assert text.startswith("q.jpg estimated at 45.146") and "2 of 3 matches agree" in text
    assert text.endswith(f"1 query in 3 photos (3 described now, index photos/{NAME})")
    assert "unknown.jpg" in text and " 1 0." in text
    assert "stand-in" not in result.stderr
    assert "(0 described now" in plain(localize(*ASKED, *MODEL).stdout)


def test_another_image_size(here):
    model = build_model(ModelConfig(backbone="toy_vits14", image_size=28, aggregator="gem"))
    save_model(model, "gem.safetensors")
    asked = (*ASKED, "--model", "gem.safetensors", "--json")
    for size, fresh in (("28", 3), ("28x42", 3), ("native", 3), ("28x42", 0)):
        result = localize(*asked, "--image-size", size)
        assert json.loads(result.stdout)["fresh"] == fresh


def test_a_program_that_reads_the_table_finds_whole_names(here):
    long = here / "photos" / f"{'name' * 40}.jpg"
    (here / "q.jpg").rename(long)
    result = localize("--database", "photos", "--query", long, *MODEL)
    assert result.stdout.count(long.name) == 2  # the query is in the database


def test_json_and_files(here):
    files = ("--csv", "out/m.csv", "--gallery", "out/g.html", "--map", "out/m.geojson")
    files += ("--index", "kept/i.sqlite")
    result = localize(*ASKED, *MODEL, "-k", 2, "--json", *files)
    told = json.loads(result.stdout)  # and nothing else is there
    (asked,) = told["queries"]
    assert asked["query"] == "q.jpg" and [m["rank"] for m in asked["matches"]] == [1, 2]
    assert asked["error"] is None and told["index"] == "kept/i.sqlite" and result.stderr == ""
    table = pd.read_csv("out/m.csv")
    assert table["image"].tolist() == [match["image"] for match in asked["matches"]]
    assert "data:image/jpeg" in (here / "out" / "g.html").read_text()
    assert len(json.loads((here / "out" / "m.geojson").read_text())["features"]) == 3
    wrong = localize(*ASKED, *MODEL, "--map", "m.gpx")
    assert wrong.exit_code == 1 and "not as m.gpx" in wrong.stderr and not wrong.stdout
    assert not (here / "photos" / NAME).exists()


def test_what_was_found_is_told_even_if_it_cannot_be_drawn(here):
    for photo in (here / "photos").glob("@*"):
        photo.rename(here / "photos" / photo.name.replace("@31@T@", "@@@"))  # in no known zone
    result = localize(*ASKED, *MODEL, "--csv", "m.csv", "--map", "m.kml")
    assert result.exit_code == 1 and "no position is known in degrees" in result.stderr
    assert "q.jpg estimated at" in plain(result.stdout) and "written: m.csv" in result.stdout


def test_unsure_answers_are_left_out(here):
    images = write_testset(here / "city") / "images" / "test"
    for same, query in zip(
        *(sorted((images / of).iterdir()) for of in ("database", "queries")), strict=True
    ):
        query.write_bytes(same.read_bytes())
    made = invoke("calibrate", "m.safetensors", "city", "--precision", 0.1, "--method", "margin")
    assert made.exit_code == 0 and "written: calibration.json" in made.stdout
    fields = json.loads((here / "calibration.json").read_text())
    assert plain(made.stdout).startswith(
        f"margin >= {fields['threshold']:.4f}: {5 * fields['answered']:.0f} of 5 queries"
    )
    (here / "calibration.json").write_text(json.dumps(fields | {"threshold": 3}))
    result = localize(*ASKED, *MODEL, "--reject", "calibration.json")
    assert "q.jpg not found: its margin is" in plain(result.stdout)
    result = localize(*ASKED, *MODEL, "--reject", "calibration.json", "--json")
    assert json.loads(result.stdout)["queries"][0]["rejected"].endswith("right on city-test")
    result = localize(*ASKED, "--reject", "calibration.json")  # by the stand-in
    assert result.exit_code == 1 and "error: calibrated was model" in result.stderr


def test_unreadable_photos_are_listed(here):
    (here / "photos" / "half.jpg").write_bytes(b"half")
    result = localize(*ASKED, *MODEL, "--json")
    assert "skipped, for it cannot be read: photos/half.jpg\n" in result.stderr
    assert json.loads(result.stdout)["skipped"] == ["photos/half.jpg"] and result.exit_code == 0


def test_damaged_queries(here):
    (here / "half.jpg").write_bytes(b"half")
    result = localize(*ASKED, *MODEL, "--query", "half.jpg")
    assert result.exit_code == 1 and "--skip-damaged" in result.stderr.splitlines()[-1]
    result = localize(*ASKED, *MODEL, "--query", "half.jpg", "--skip-damaged", "--json")
    told = json.loads(result.stdout)
    assert [query["query"] for query in told["queries"]] == ["q.jpg"]
    assert "skipped, for it cannot be read: half.jpg\n" in result.stderr


def test_without_a_model_the_stand_in_searches_and_it_is_said(here):
    result = localize(*ASKED, "--json")
    assert "note: no --model and no --preset, so a small stand-in" in result.stderr
    assert json.loads(result.stdout)["photos"] == 3
    save_model(stand_in(), here / "same.safetensors")
    again = json.loads(localize(*ASKED, "--json", "--model", "same.safetensors").stdout)
    assert again["fresh"] == 0


def test_presets(here):
    for _ in range(2):
        with pytest.warns(UserWarning, match="of the preset dino_mix_toy only the backbone is"):
            again = localize(*ASKED, "--preset", "dino_mix_toy", "--json")
    assert warnings.formatwarning("it is so", UserWarning, "a.py", 3) == "note: it is so\n"
    assert json.loads(again.stdout)["fresh"] == 0  # what is random in it is always the same


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--database", "nowhere", "--query", "q.jpg", *MODEL), "no photo, folder or CSV file no"),
        ((*ASKED, "--model", "no.safetensors"), "no.safetensors"),
        ((*ASKED, "--preset", "gem"), "no preset 'gem'"),
        ((*ASKED, *MODEL, "--gallery", "g.pdf"), ".html or .png"),
        ((*ASKED, *MODEL, "--index", "q.jpg"), "q.jpg is no index"),
        ((*ASKED, *MODEL, "--radius", "-1"), "radius is -1.0"),
    ],
)
def test_errors_are_one_line(here, arguments, complaint):
    result = localize(*arguments)
    assert result.exit_code == 1 and result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ") and complaint in last


def test_wrong_usage_and_help(here):
    assert localize("--database", "photos").exit_code == 2
    result = localize(*ASKED, *MODEL, "--preset", "gem_dinov2")
    assert result.exit_code == 2 and "--model or --preset" in plain(result.stderr)
    assert localize(*ASKED, "-k", 0).exit_code == 2
    text = plain(localize("--help").stdout)
    for word in ("stand-in", "EXIF", ".dinomix.sqlite", ".html or .png", "gem_dinov2"):
        assert word in text
