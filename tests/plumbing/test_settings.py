"""Configs that people write: what is read, and what each mistake is answered with."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dinomix
from dinomix.cli.training import read_model_config
from dinomix.plumbing.settings import LARGEST, one_line, parse_yaml, read_fields


def write(folder, content, name="model.yaml"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yaml", "backbone: toy_vits14  # small\nimage_size: [56, 84]\nmix_depth: 1\n"),
        ("a.yml", "{backbone: toy_vits14, image_size: [56, 84], mix_depth: 1}"),
        ("a.json", '{"backbone": "toy_vits14", "image_size": [56, 84], "mix_depth": 1}'),
        ("b.json", '\ufeff{"backbone": "toy_vits14", "image_size": [56, 84], "mix_depth": 1}'),
    ],
)
def test_formats_agree(tmp_path, name, content):
    found = read_model_config(write(tmp_path, content, name))
    assert found == dinomix.ModelConfig(backbone="toy_vits14", image_size=(56, 84), mix_depth=1)


def test_fields_win_over_the_base(tmp_path):
    base = dinomix.PRESETS["salad"]
    path = write(tmp_path, "aggregator_options: {clusters: 8}\n")
    found = read_model_config(path, base)
    assert found == dinomix.ModelConfig(
        aggregator="salad", trained_blocks=4, aggregator_options={"clusters": 8}
    )


def test_config_of_a_published_model(tmp_path):
    config = dinomix.PRESETS["dino_mix_toy"]
    dinomix.build_model(config).save_pretrained(tmp_path)
    assert read_model_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("trained_block: 2", "unknown in a model's config: trained_block; the fields are backbone"),
        ("7: 2", "unknown in a model's config: 7"),
        ("mix_depth: two", "mix_depth must be an integer of at least 0, not 'two'"),
        ("mix_depth: -1", "mix_depth must be an integer of at least 0, not -1"),
        ("mix_depth: 1.0", "mix_depth must be an integer"),
        ("out_rows: 2001-01-01", "out_rows must be an integer"),
        ("train_tokens: 1", "train_tokens must be True or False, not 1"),
        ("aggregator: nothing", "unknown aggregator 'nothing'"),
        ("backbone: on", "backbone must be a name, not True"),
        ("mix_depth: 1\nmix_depth: 2", "line 2: the key 'mix_depth' is there twice: keep one"),
        ("aggregator_options: {p: 1, p: 2}", "line 1: the key 'p' is there twice"),
        ("- mix_depth: 1", 'holds a list instead of named values: write "name: value" lines'),
        ("mix_depth", "holds a str instead"),
        ("", "is empty"),
        ("# nothing\n---\n", "is empty"),
        ("mix_depth: [", "line 1: "),
        ("mix_depth: 1\n---\nmix_depth: 2", "line 2: but found another document"),
        ("a: !!python/object/apply:os.system ['exit 3']", "line 1: could not determine a const"),
        ("[" * 3000, "nested too deeply"),
        (b"mix_depth: \xff", "'utf-8' codec can't decode"),
        ("mix_depth: \x07", "special characters are not allowed"),
        ("? [a]\n: b", "line 1: found unhashable key"),
    ],
)
def test_mistakes_in_yaml_name_the_file_and_the_key(tmp_path, content, complaint):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(complaint)) as error:
        read_model_config(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"mix_depth": 1, "mix_depth": 2}', "the key 'mix_depth' is there twice"),
        ("[1]", "holds a list instead"),
        ("null", "is empty"),
        ("  ", "is empty"),
        ("{", "Expecting property name"),
        ("[" * 30_000, "nested too deeply"),
        ('{"image_size": NaN}', "image_size must be a number or (height, width), not nan"),
        ('{"mix_depth": ' + "9" * 5000 + "}", "integer string"),
    ],
)
def test_mistakes_in_json_name_the_file_and_the_key(tmp_path, content, complaint):
    path = write(tmp_path, content, "model.json")
    with pytest.raises(ValueError, match=re.escape(complaint)) as error:
        read_model_config(path)
    assert str(error.value).startswith(f"{path}: ")


def test_files_that_are_no_configs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no config file .*none\.yaml"):
        read_fields(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=r"model\.toml: a config file ends in \.yaml, \.yml or"):
        read_fields(write(tmp_path, "a = 1", "model.toml"))
    with pytest.raises(ValueError, match="has 100,001 bytes, too many"):
        read_fields(write(tmp_path, "#" * (LARGEST + 1)))


def test_aliases_are_read():
    assert parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}") == {
        "a": {"x": 1},
        "b": {"x": 1},
        "c": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "+1e-3", ".1e-2", "0.1e-2", "1e-03"])
def test_exponents_need_no_dot(text):
    assert parse_yaml(text) == 1e-3
    assert parse_yaml(f"[{text}]") == [1e-3]


@pytest.mark.parametrize("text", ["e3", "1e", "1e-3x", "1-3", "v1e3"])
def test_words_stay_words(text):
    assert parse_yaml(text) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_of_python_is_read(value):
    assert parse_yaml(repr(value)) == value
