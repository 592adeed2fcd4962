"""Tables, file names and configs that are wrong in every way: an error that says where, and what.

What a row may hold is tested in test_datasets.py and test_layouts.py; here is the rest.
"""

import dataclasses
import json
import math
import re

import nbformat
import numpy as np
import pytest

from dinomix.data import PlaceDataset, TestSet, read_utm
from dinomix.datasets.layouts import read_csv
from dinomix.model import MOST, MOST_OTHERS, ModelConfig
from dinomix.pipeline.notebooks import load_profile
from dinomix.plumbing.settings import parse_yaml
from dinomix.runs.run import CONFIG, HISTORY, Run
from dinomix.training import TrainConfig
from tests.conftest import write_image, write_testset
from toycity import ToyCityConfig
from toycity.writer import read_config

LONG = "9" * 1_000_000
SHORT = 2000  # characters, at most, of a message about it


# --------------------------------------------------------------------------- GSV-Cities


@pytest.fixture
def table(places_root):
    return places_root / "Dataframes" / "Madeup.csv"


def change_cell(table, row, column, value):
    lines = [line.split(",") for line in table.read_text().splitlines()]
    lines[row][lines[0].index(column)] = value
    table.write_text("\n".join(",".join(line) for line in lines))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no BOM", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_gsv_byte_order_marks_and_line_ends_do_not_matter(places_root, table, mark, end):
    expected = PlaceDataset(places_root)
    table.write_bytes(mark + table.read_bytes().replace(b"\n", end))
    assert PlaceDataset(places_root).fingerprint == expected.fingerprint


def test_gsv_columns_in_another_order_and_more_of_them(places_root, table):
    expected = PlaceDataset(places_root)
    lines = [["x", *reversed(line.split(","))] for line in table.read_text().splitlines()]
    table.write_text("\n".join(",".join(line) for line in lines))
    assert PlaceDataset(places_root).fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda text: text.replace(",", ";"),
            r"lacks the columns .*separated by commas, it has \[",
        ),
        (lambda text: text.replace(",", "\t"), "lacks the columns"),
        (lambda text: text.replace("year", "place_id", 1), r"lacks the columns \['year'\]"),
        (lambda text: text.replace("panoid", "panoid,year", 1), r"the columns \['year'\] twice"),
        (lambda text: text.splitlines()[0] + "\n", "it has no rows"),
        (lambda text: "\n\n\n", "No columns"),
        (lambda text: "<html>404</html>", "lacks the columns"),
    ],
)
def test_gsv_tables_of_another_form(places_root, table, change, complaint):
    table.write_text(change(table.read_text()))
    with pytest.raises(ValueError, match=rf"Madeup\.csv is not in the GSV-Cities .*{complaint}"):
        PlaceDataset(places_root)


def test_gsv_a_line_in_another_encoding_is_named(places_root, table):
    lines = table.read_bytes().splitlines()
    lines[7] = lines[7].replace(b"p1i2", "pé".encode("latin-1"))
    table.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=r"Madeup\.csv .* line 8 is not in UTF-8; save"):
        PlaceDataset(places_root)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("place_id", "9007199254740993"),  # 2^53 + 1, which a float64 would round
        ("place_id", "99999999999999999999"),
        ("place_id", "-inf"),
        ("place_id", "1_0"),
        ("place_id", "0x10"),
        ("year", "True"),
        ("year", "٢٠٢٠"),
        ("lat", "45,0"),
        ("lat", "1e400"),
        ("lon", "None"),
        ("panoid", ""),
        ("city_id", ""),
        ("city_id", "a/b"),
    ],
)
def test_gsv_values_that_cannot_be(places_root, table, column, value):
    change_cell(table, 3, column, f'"{value}"')
    with pytest.raises(ValueError) as error:
        PlaceDataset(places_root)
    assert str(error.value).startswith(f"{table}, row 3 below the header: {column} is {value!r}")


def test_gsv_a_huge_field_does_not_fill_the_screen(places_root, table):
    change_cell(table, 2, "lat", LONG)
    with pytest.raises(ValueError, match=r"row 2 below the header: lat is '9+\.\.\.'") as error:
        PlaceDataset(places_root)
    assert len(str(error.value)) < SHORT


def test_gsv_links_out_of_the_folder_are_followed(places_root, tmp_path):
    """`prepare` makes such links; what a CSV says never leads out (`..` and `/` are refused)."""
    expected = PlaceDataset(places_root).fingerprint
    image = next((places_root / "Images" / "Madeup").iterdir())
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    assert PlaceDataset(places_root).fingerprint == expected


# --------------------------------------------------------------------------- image tables


@pytest.fixture
def images(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / name, np.random.default_rng(0))
    return tmp_path


TEXT = "image,utm_east,utm_north\na.jpg,400000,5000000\nb.jpg,400010.5,5000000\n"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no BOM", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\n\n"])
def test_csv_byte_order_marks_and_line_ends_do_not_matter(images, mark, end):
    path = images / "d.csv"
    path.write_bytes(mark + TEXT.encode().replace(b"\n", end))
    test = read_csv(path, path)
    assert test.database == [images / "a.jpg", images / "b.jpg"]
    assert test.database_utm.tolist() == [[400000, 5000000], [400010.5, 5000000]]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (",", ";", r"has the columns \['image;utm_east;utm_north'\].*commas in between"),
        (",", "\t", "has the columns"),
        ("400010.5", "400_010", "row 3: utm_east is '400_010', which is not a number"),
        ("400010.5", "\uff14\uff10\uff10", "row 3: utm_east is .* which is not a number"),
        ("400010.5", "nan", "row 3: utm_east is 'nan', expected"),
        ("400010.5", "-Infinity", "row 3: utm_east is '-Infinity', expected"),
        ("400010.5", "1e999", "row 3: utm_east is '1e999', expected"),
        ("400010.5", "True", "row 3: utm_east is 'True', which is not a number"),
        ("400010.5", "9" * 100_000, r"row 3: utm_east is '9+\.\.\.', expected"),
        ("b.jpg", "b" * 200_000, "line [0-9]+: field larger than field limit"),
        ("b.jpg", "../" * 1000, r"row 3: the image '(\.\./)+\.+' should be a path within"),
        ("b.jpg", "a.jpg", "rows 2 and 3: .* have the same name"),
        ("b.jpg", ".", "row 3: the image '.' should"),
        ("b.jpg", "\\\\host\\b.jpg", "row 3: the image .* should"),
    ],
)
def test_csv_files_of_another_form(images, old, new, complaint):
    path = images / "bad.csv"
    path.write_text(TEXT.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"bad\.csv.*{complaint}") as error:
        read_csv(path, path)
    assert len(str(error.value)) < SHORT


def test_csv_a_line_in_another_encoding_is_named(images):
    path = images / "bad.csv"
    path.write_bytes((TEXT + "é.jpg,1,1\n").encode("latin-1"))
    with pytest.raises(ValueError, match=r"bad\.csv is not .* line 4 is in another encoding; save"):
        read_csv(path, path)


def test_csv_a_name_that_no_file_can_have_is_missing(images):
    path = images / "bad.csv"
    path.write_text(TEXT.replace("b.jpg", "b\0.jpg"))
    with pytest.raises((ValueError, FileNotFoundError), match=r"bad\.csv"):
        read_csv(path, path)


# --------------------------------------------------------------------------- UTM names


@pytest.mark.parametrize(
    "name",
    [
        "@.jpg",
        "@@@.jpg",
        "@400000.00.jpg",
        "@400000.00@north@.jpg",
        "@4_0@5@.jpg",
        "@\uff14\uff10@5@.jpg",
        "@400 000@5@.jpg",
        "@400,5@5@.jpg",
        "@0x40@5@.jpg",
        "@inf@5@.jpg",
        "@1e999@5@.jpg",
        "@True@5@.jpg",
    ],
)
def test_garbage_in_a_utm_name(tmp_path, name):
    write_testset(tmp_path)
    write_image(tmp_path / "images" / "test" / "database" / name, np.random.default_rng(0))
    with pytest.raises(ValueError, match=f"no coordinates in the name of .*{re.escape(name)}"):
        TestSet(tmp_path)


def test_what_utm_names_may_hold(tmp_path):
    names = ["@1e5@2@", "x@-1.5@+2.25@y@@", "@ 3 @4@  ", "@5@6@31@T@45.0@1.0@é @@.png"]
    found = read_utm([tmp_path / name for name in names])
    assert found.tolist() == [[1e5, 2], [-1.5, 2.25], [3, 4], [5, 6]]


def test_positions_of_lists_must_be_finite(tmp_path):
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    good = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"positions of 1 images .*b\.jpg: \[0\.0, nan\]"):
        TestSet.from_lists("x", paths, paths, good, np.array([[0, 0], [0, np.nan]]))


# --------------------------------------------------------------------------- configs

FIELDS = {
    config: [field.name for field in dataclasses.fields(config)]
    for config in (ModelConfig, TrainConfig, ToyCityConfig)
}
HUGE = 10**400  # an integer that no float holds
JUNK = [True, HUGE, -HUGE, math.nan, math.inf, [], [[]], {}, {"a": {"b": []}}, "", "\0", b"x", 1j]
TAKEN = {  # what of the above a field may well be
    "train_tokens": [True],
    "compile": [True],
    "cache_prefix": [True],
    "milestones": [[], [HUGE]],
    "aggregator_options": [[], {}],
    "device": ["", "\0"],  # torch says what devices there are
}


@pytest.mark.parametrize(
    ("config", "field"), [(config, field) for config, names in FIELDS.items() for field in names]
)
def test_no_field_takes_junk(config, field):
    for value in [*JUNK, *([value] for value in JUNK), None]:
        optional = (
            value is None
            and dataclasses.fields(config)[FIELDS[config].index(field)].default is None
        )
        if optional or any(value == taken for taken in TAKEN.get(field, [])):
            config.from_dict({field: value})
        else:
            with pytest.raises(ValueError) as error:
                config.from_dict({field: value})
            named = {"train_seeds": "seed", "val_seed": "seed", "test_seed": "seed"}
            conditions = field.endswith("conditions")
            assert (named.get(field, field) in str(error.value)) or conditions, (value, error.value)


@pytest.mark.parametrize("config", FIELDS)
@pytest.mark.parametrize(
    "fields", [None, 5, "mix", [("seed", 1)], {"nosuch": 1}, {5: 1, "seed": 2}, {None: 1, 2: 3}]
)
def test_configs_are_made_of_known_names(config, fields):
    with pytest.raises(ValueError):
        config.from_dict(fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", MOST["image_size"] + 1),
        ("image_size", [14, 10**9]),
        ("mix_depth", 10**9),
        ("out_channels", MOST_OTHERS + 1),
        ("out_rows", 10**9),
        ("stage", 10**9),
        ("trained_blocks", 10**9),
    ],
)
def test_a_model_has_a_largest_size(field, value):
    with pytest.raises(ValueError, match=f"{field} must be at most"):
        ModelConfig(**{field: value})


@pytest.mark.parametrize(
    ("aggregator", "options"),
    [
        ("boq", {"layers": 10**9}),
        ("salad", {"iterations": 10**9}),
        ("netvlad", {"clusters": 10**9}),
        ("gem", {"p": math.nan}),
        ("gem", {"p": math.inf}),
        ("netvlad", {"clusters": True}),
        ("gem", {5: 1, "p": 2}),
    ],
)
def test_options_of_aggregators_have_a_range(aggregator, options):
    with pytest.raises(ValueError, match="aggregator_options"):
        ModelConfig(aggregator=aggregator, aggregator_options=options)


# --------------------------------------------------------------------------- profiles


@pytest.fixture
def notebooks(tmp_path):
    cell = nbformat.v4.new_code_cell("size = 1", metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "10_a.ipynb")
    (tmp_path / "profiles").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it is empty"),
        ("- a\n- b", "it holds a list"),
        ("common: {}", r"has the keys \['common'\]; expected are common and notebooks"),
        ("common: {}\nnotebooks: {}\nnotebook: {}", "has the keys"),
        ("common: 5\nnotebooks: {}", "common is 5, expected names with values"),
        ("common: {}\nnotebooks: [10_a]", "notebooks is .'10_a'., expected names"),
        ("common: {}\nnotebooks: {10_a: 5}", "10_a is 5, expected names"),
        ("common: {5: 1}\nnotebooks: {10_a: }", "common is .*, expected names"),
        ("common: {}\nnotebooks: {../10_a: }", "should be a notebook's name, without a folder"),
        ("common: {}\nnotebooks: {/tmp/10_a: }", "should be a notebook's name"),
        ("common: {size: 2020-01-01}\nnotebooks: {10_a: }", "size of common .* needs quotes"),
        ("common: {size: !!set {a}}\nnotebooks: {10_a: }", "size of common is .*, expected text"),
        ("common: {size: &a [*a]}\nnotebooks: {10_a: }", "size of common is"),
        ("common: {size: !!binary aGk=}\nnotebooks: {10_a: }", "size of common is"),
        (
            "common: {size: 1, size: 2}\nnotebooks: {10_a: }",
            "line 1: the key 'size' is there twice",
        ),
        (
            "common: {size: !!python/object/apply:os.system [ls]}\nnotebooks: {}",
            "line 1: could not",
        ),
        ("common: {size: !!python/name:os.system }\nnotebooks: {}", "line 1: could not"),
        ("common: {size: !nosuch 5}\nnotebooks: {}", "line 1: could not"),
        ("common: {size: !!bool perhaps}\nnotebooks: {}", "it holds a value that is none"),
        ("common: {size: !!timestamp soon}\nnotebooks: {}", "it holds a value that is none"),
        ("common: {size: 2020-02-31}\nnotebooks: {}", "it holds a value that is none"),
        ("common: {size: " + "9" * 10_000 + "}\nnotebooks: {}", "it holds a value that is none"),
        ("common: {size: " + "[" * 40_000 + "}", "nested too deeply|line 1"),
        ("common: {size: 1\nnotebooks: {}", "line 2"),
        ("common: {size: '\x07'}\nnotebooks: {}", "unacceptable character"),
        ("x: " + "a" * 200_000, "200,003 bytes, too many"),
    ],
)
def test_bad_profiles(notebooks, text, complaint):
    (notebooks / "profiles" / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.yaml.*({complaint})"):
        load_profile("bad", notebooks=notebooks)


@pytest.mark.parametrize("name", ["../profiles/good", "/etc/passwd", "", "good.yaml", "."])
def test_a_profile_is_named_not_pathed(notebooks, name):
    (notebooks / "profiles" / "good.yaml").write_text("common: {size: 2}\nnotebooks: {10_a: }")
    assert load_profile("good", notebooks=notebooks)[0].parameters == {"size": 2}
    with pytest.raises(FileNotFoundError, match=r"no profile .*there are \['good'\]"):
        load_profile(name, notebooks=notebooks)


def test_overrides_that_are_no_yaml():
    for text in ("[", "!!python/object:os.system {}", "!!int x", "[" * 50_000):
        with pytest.raises(ValueError):
            parse_yaml(text)


# --------------------------------------------------------------------------- what a run left


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is damaged"),
        ("\0" * 100, "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("5", "is damaged, or about no run"),
        ('{"finished": "yes"}', "does not say whether the run is finished"),
        ('{"finished": true}', "cannot be used here: 'model'"),
        ('{"finished": true, "model": 5, "train": {}}', "cannot be used here"),
        ('{"finished": true, "model": {"x": 1}, "train": {}}', "unknown in a model's config: x"),
        ('{"finished": true, "model": {}, "train": {"lr": "1"}}', "TrainConfig.lr is '1'"),
    ],
)
def test_a_damaged_config_of_a_run(tmp_path, text, complaint):
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json.*{complaint}"):
        Run.open(tmp_path)


@pytest.mark.parametrize("text", ["", "epoch,step\n1,2\n", "\0\0", "<html>"])
def test_a_damaged_history_of_a_run(tmp_path, text):
    (tmp_path / CONFIG).write_text('{"finished": true, "model": {}, "train": {}}')
    (tmp_path / HISTORY).write_text(text)
    with pytest.raises(ValueError, match=r"history\.csv is damaged"):
        Run.open(tmp_path)


@pytest.mark.parametrize("content", ["", "[", "5", "{}", {"recipe": 1, "config": 5}, "[" * 100_000])
def test_a_damaged_manifest_of_a_toy_city(tmp_path, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "toycity.json").write_text(text)
    with pytest.raises(ValueError, match=r"toycity\.json is damaged"):
        read_config(tmp_path)
