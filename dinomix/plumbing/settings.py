"""Settings that people write, read strictly: YAML, JSON, and the parameters of notebooks."""

import ast
import json
import re
import reprlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dinomix.plumbing.errors import ParameterError, did_you_mean

LARGEST = 100_000  # bytes; a config has a few hundred
VERSION = "dinomix_version"  # stands beside the fields in what save_pretrained writes
# A notebook's parameter takes what is like its default, and of these names what is like these, too.
ALSO: dict[str, Any] = {
    **{"methods": ["name"], "watched": "name", "weights": None, "backbones": {"name": None}},
    **{"test_folders": [["folder", "split"]], "robust_changes": {}},
}


class _Loader(yaml.SafeLoader):
    """YAML's plain values, data and never code; no key twice, and 1e-3 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML's, which takes the last of equal keys without a word."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice: keep one", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.2's rule. PyYAML knows 1.1's, which wants a dot and a sign: 1.0e-3.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """The value that YAML text stands for: dicts, lists, text, numbers, dates, None.

    ValueError names the line where it is no YAML, has a key twice, or asks for an object.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"line {mark.line + 1}: {problem}" if mark else problem) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply for a config") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML's own way with `!!bool perhaps`, or with the 31st of February
        raise ValueError(f"it holds a value that is none: {error}") from error


def read_fields(path: str | Path) -> dict[str, Any]:
    """The named values in a .yaml, .yml or .json file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is larger than any config, damaged, empty, or holds no named values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no config file {path}")
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise ValueError(f"{path}: a config file ends in .yaml, .yml or .json")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, too many for a config")
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = _parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        found = f"holds a {type(values).__name__} instead of named values" if values else "is empty"
        raise ValueError(f'{path}: it {found}: write "name: value" lines (JSON: {{"name": value}})')
    return values


def _parse_json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"the key {twice[0]!r} is there twice: keep one")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once) if text.strip() else None


def parse_overrides(text: str) -> dict[str, Any]:
    """`"epochs=2; seeds=[0, 1]"` as a dict, values read as YAML; ValueError for anything else."""
    overrides: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not name.isidentifier():
            raise ValueError(f"cannot read the parameter {part!r}; write name=value; name=value")
        if name in overrides:
            raise ValueError(f"the parameter {name} is given twice; give it once")
        try:
            overrides[name] = parse_yaml(value)
        except ValueError as error:
            raise ValueError(f"cannot read the value in {part!r}: {error}") from error
    return overrides


def cell_values(source: str) -> dict[str, Any]:
    """The literals to which a notebook's cell of parameters gives names."""
    lines = [line for line in ast.parse(source).body if isinstance(line, ast.Assign)]
    return {line.targets[0].id: _literal(line.value) for line in lines}


def _literal(node: ast.expr) -> Any:
    if not isinstance(node, ast.List):
        return ast.literal_eval(node)
    parts = [
        _literal(e.value) if isinstance(e, ast.Starred) else [_literal(e)]  # [*("a", "b"), "c"]
        for e in node.elts
    ]
    return [value for part in parts for value in part]


def refuse_unknown(names: Collection[str], declared: Collection[str], where: str) -> None:
    """ParameterError for a name that no cell of parameters declares; `where` has no such one."""
    for name in sorted(set(names) - set(declared)):
        raise ParameterError(f"{where} has no parameter {name!r}; {did_you_mean(name, declared)}")


def refuse_unlike(
    given: Mapping[str, Any], defaults: Mapping[str, Any], where: str, of_text: str = ""
) -> None:
    """ParameterError for a value of another kind than its default, such as 0 for [0, 1].

    None as a default, and an empty list or dict, tell nothing: anything is like them.
    """
    for name, value in given.items():
        examples = [defaults[name], *([ALSO[name]] if name in ALSO else [])]
        if examples != [None] and not _alike(value, examples):
            default = reprlib.repr(defaults[name] or examples[-1])
            hint = of_text if isinstance(value, str) else ""
            raise ParameterError(
                f"{name} of {where} is {value!r}; it should be like {default}{hint}"
            )


def _alike(value: Any, examples: Sequence[Any], in_list: bool = False) -> bool:
    """Whether a value is like one of the examples. Lists in lists are as long as the examples'."""
    same = [example for example in examples if type(example) is type(value)]
    if not isinstance(value, list | dict) or not all(same):  # an empty example is like anything
        return bool(same) or (type(value) is int and any(type(e) is float for e in examples))
    inside = [item for example in same for item in _items(example)]
    fits = bool(same) and (not in_list or len(value) in map(len, same))
    return fits and all(_alike(item, inside, isinstance(value, list)) for item in _items(value))


def _items(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value
