"""Settings that people write: YAML and JSON, read strictly."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

LARGEST = 100_000  # bytes; a config has a few hundred
VERSION = "dinomix_version"  # stands beside the fields in what save_pretrained writes


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

    Raises:
        ValueError: it is no YAML, has a key twice, or asks for an object; the line is named.
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
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if values is None:
        raise ValueError(f'{path}: it is empty: write "name: value" lines')
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: it holds a {type(values).__name__} instead of named values: write "
            '"name: value" lines (JSON: {"name": value})'
        )
    return values


def _parse_json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"the key {twice[0]!r} is there twice: keep one")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once) if text.strip() else None
    except RecursionError as error:
        raise ValueError("it is nested too deeply for a config") from error


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
