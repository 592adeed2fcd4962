"""Configs and profiles that are wrong in every way: an error that says where, and what.

Tables are tested in tests/plumbing/test_csvtables.py, names of files in tests/test_data.py.
"""

import dataclasses
import json
import math

import nbformat
import pytest

from dinomix.model import MOST_OTHERS, MOST_PIXELS, ModelConfig
from dinomix.pipeline.notebooks import load_profile
from dinomix.plumbing.settings import parse_yaml
from dinomix.runs.run import CONFIG, HISTORY, Run
from dinomix.training import TrainConfig
from toycity import ToyCityConfig
from toycity.writer import read_config

# --------------------------------------------------------------------------- configs

FIELDS = {
    config: [field.name for field in dataclasses.fields(config)]
    for config in (ModelConfig, TrainConfig, ToyCityConfig)
}
HUGE = 10**400  # an integer that no float holds
JUNK = [True, HUGE, -HUGE, math.nan, math.inf, [], [[]], {}, {"a": {"b": []}}, "", "\0", b"x", 1j]
TAKEN = {  # what of the above a field may well be
    **{name: [True] for name in ("train_tokens", "final_norm", "moving_statistics")},
    "divide_by_accumulation": [True],
    **{name: [True] for name in ("compile", "initialise")},
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
            config(**{field: value})
        else:
            with pytest.raises(ValueError) as error:
                config(**{field: value})
            named = {"train_seeds": "seed", "val_seed": "seed", "test_seed": "seed"}
            conditions = field.endswith("conditions")
            assert (named.get(field, field) in str(error.value)) or conditions, (value, error.value)


@pytest.mark.parametrize("config", [ModelConfig, TrainConfig])
@pytest.mark.parametrize(
    "fields", [None, 5, "mix", [("seed", 1)], {"nosuch": 1}, {5: 1, "seed": 2}, {None: 1, 2: 3}]
)
def test_configs_are_made_of_known_names(config, fields):
    with pytest.raises(ValueError):
        config.from_dict(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"image_size": MOST_PIXELS + 1},
        {"image_size": [14, 10**9]},
        {"out_channels": MOST_OTHERS + 1},
        *({field: 10**9} for field in ("mix_depth", "out_rows", "stage", "trained_blocks")),
        {"aggregator_options": {"layers": 10**9}, "aggregator": "boq"},
        {"aggregator_options": {"iterations": 10**9}, "aggregator": "salad"},
        {"aggregator_options": {"clusters": 10**9}, "aggregator": "netvlad"},
        {"aggregator_options": {"clusters": True}, "aggregator": "netvlad"},
        *({"aggregator_options": {"p": p}, "aggregator": "gem"} for p in (math.nan, math.inf)),
        {"aggregator_options": {5: 1, "p": 2}, "aggregator": "gem"},
    ],
)
def test_a_model_has_a_largest_size_and_options_have_a_range(fields):
    field = next(iter(fields))
    with pytest.raises(ValueError, match=field if "aggregator" in fields else f"{field} .*at most"):
        ModelConfig(**fields)


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
        ("common: 5\nnotebooks: {}", "common is 5, expected names"),
        ("common: {}\nnotebooks: [10_a]", "notebooks is .'10_a'., expected names"),
        ("common: {}\nnotebooks: {10_a: 5}", "10_a is 5, expected names"),
        ("common: {5: 1}\nnotebooks: {10_a: }", "common is .*, expected names"),
        ("common: {size: 1, size: 2}\nnotebooks: {10_a: }", "line 1: .*'size' is there twice"),
        ("common: {size: !!python/object/apply:os.system [ls]}\nnotebooks: {}", "line 1: could"),
        ("common: {size: !nosuch 5}\nnotebooks: {}", "line 1: could not"),
        ("common: {size: !!bool perhaps}\nnotebooks: {}", "a value that is none"),
        ("common: {size: 2020-02-31}\nnotebooks: {}", "a value that is none"),
        ("common: {size: " + "9" * 10_000 + "}\nnotebooks: {}", "a value that is none"),
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


@pytest.mark.parametrize("value", ["2020-01-01", "!!set {a}", "&a [*a]", "&a {b: *a}", "{1: 2}"])
def test_values_of_a_profile_that_no_parameter_takes(notebooks, value):
    profile = f"common: {{size: {value}}}\nnotebooks: {{10_a: }}"
    (notebooks / "profiles" / "bad.yaml").write_text(profile)
    with pytest.raises(ValueError, match=r"size of notebook 10_a is .*; it should be like 1"):
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
        ("[" * 100_000, "is damaged"),
        ("5", "is damaged, or about no run"),
        ('{"finished": "yes"}', "does not say whether the run is finished"),
        ('{"finished": true}', "cannot be used here: 'model'"),
        ('{"finished": true, "model": {"x": 1}, "train": {}}', r"no fields \['x'\]"),
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
