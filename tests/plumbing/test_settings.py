"""Configs that people write: what is read, and what each mistake is answered with."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinomix.plumbing.errors import ExplainedError
from dinomix.plumbing.settings import (
    LARGEST,
    cell_values,
    parse_overrides,
    parse_yaml,
    read_fields,
    refuse_unknown,
    refuse_unlike,
)


def write(folder, content, name="a.yaml"):
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
    found = read_fields(write(tmp_path, content, name))
    assert found == {"backbone": "toy_vits14", "image_size": [56, 84], "mix_depth": 1}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.yaml", "mix_depth: 1\nmix_depth: 2", "line 2: the key 'mix_depth' is there twice"),
        ("a.yaml", "- mix_depth: 1", 'a list instead of named values: write "name: value"'),
        ("a.yaml", "# nothing\n---\n", "is empty"),
        ("a.yaml", "mix_depth: [", "line 1: "),
        ("a.yaml", "mix_depth: 1\n---\nmix_depth: 2", "line 2: but found another document"),
        ("a.yaml", "a: !!python/object/apply:os.system ['exit 3']", "line 1: could not determine"),
        ("a.yaml", "[" * 3000, "nested too deeply"),
        ("a.yaml", b"mix_depth: \xff", "'utf-8' codec can't decode"),
        ("a.yaml", "mix_depth: \x07", "special characters are not allowed"),
        ("a.yaml", "? [a]\n: b", "line 1: found unhashable key"),
        ("a.json", '{"mix_depth": 1, "mix_depth": 2}', "the key 'mix_depth' is there twice"),
        ("a.json", "  ", "is empty"),
        ("a.json", "{", "Expecting property name"),
        ("a.json", "[" * 30_000, "recursion"),
        ("a.json", '{"mix_depth": ' + "9" * 5000 + "}", "integer string"),
        ("a.toml", "a = 1", "a config file ends in .yaml, .yml or .json"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path, name, content, complaint):
    path = write(tmp_path, content, name)
    with pytest.raises(ValueError, match=re.escape(complaint)) as error:
        read_fields(path)
    assert str(error.value).startswith(f"{path}: ")


def test_files_that_are_no_configs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no config file .*none\.yaml"):
        read_fields(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="has 100,001 bytes, too many"):
        read_fields(write(tmp_path, "#" * (LARGEST + 1)))


def test_aliases_are_read():
    found = parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}")
    assert found == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


def test_overrides_are_read_as_yaml():
    found = parse_overrides("seeds=[0, 1]; name=toy;x = 1e-3;")
    assert found == {"seeds": [0, 1], "name": "toy", "x": 1e-3}  # PyYAML wants 1.0e-3
    assert parse_overrides("") == {}
    for text, complaint in (
        ("epochs", "'epochs'.*name=value"),
        ("epochs=1; epochs = 2", "epochs is given twice"),
        ("seeds=[0", r"'seeds=\[0': line 1"),
    ):
        with pytest.raises(ValueError, match=complaint):
            parse_overrides(text)


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


CELL = """
seeds = [0, 1]  # a comment
names = [*("a", "b"), "c"]
size, grades = 5, [0.0, 0.5]
shapes = [[64, 2], [128, 4]]
options = {}
challenges = {"dark": ["night"]}
test_folders = ["toycity"]
weights = "hub"
methods = None
choice = None
""".replace("size, grades = 5, [0.0, 0.5]", "size = 5\ngrades = [0.0, 0.5]")


def test_a_cell_of_parameters_is_read_without_running_it():
    expected = {}
    exec(CELL, expected)
    del expected["__builtins__"]
    assert cell_values(CELL) == expected


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("seeds", [[5], []], [0, ["a"], [0.5], [True], None, "[0, 1]", [[0]], {"a": 0}]),
        ("names", [["x"], []], ["x", [1], [["a"]], None]),
        ("size", [7], [7.0, "7", True, [7], None]),
        ("grades", [[0, 1], [0.1, 1]], [0.1, ["0.1"], [True]]),
        ("shapes", [[[16, 2]]], [[16, 2], [[16]], [[16, 2, 1]], [["a", "b"]], [[16, [2]]]]),
        ("options", [{"a": [1], "b": "c"}], [[], 0, "a", None]),
        ("challenges", [{"a": ["b", "c"], "d": []}], [{"a": "b"}, {"a": [1]}, ["a"]]),
        ("test_folders", [["a", ["a", "val"]]], ["a", [["a"]], [0]]),
        ("weights", ["a.pth", None], [0, ["hub"]]),
        ("methods", [None, ["BoQ"]], ["BoQ", [1], [["BoQ"]]]),
        ("choice", [None, "a", 0, [[]]], []),
    ],
)
def test_a_parameter_takes_what_is_like_its_default(name, good, bad):
    for value in good:
        refuse_unlike({name: value}, cell_values(CELL), "notebook 04")
    for value in bad:
        with pytest.raises(ValueError, match=f"{name} of notebook 04 is .*; it should be like "):
            refuse_unlike({name: value}, cell_values(CELL), "notebook 04")


def test_unknown_parameters_are_told_with_the_nearest_names():
    refuse_unknown(["seeds"], ["seeds"], "notebook 04")
    with pytest.raises(ValueError, match=r"^notebook 04 has no .*'depht'; did you mean 'depth'\?$"):
        refuse_unknown(["depht"], ["depth", "size"], "notebook 04")
    many = [f"name{i}" for i in range(20)]
    with pytest.raises(ValueError, match=r"'xyz'; there are name0, .* and 15 more$") as error:
        refuse_unknown(["xyz"], many, "notebook 04")
    assert isinstance(error.value, ExplainedError)
