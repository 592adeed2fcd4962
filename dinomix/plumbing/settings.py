"""Settings that people write: YAML and JSON, read strictly, and configs of models from them."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from dinomix.model import ModelConfig

LARGEST = 100_000  # bytes; a config has a few hundred
MOST_VALUES = 10_000
VERSION = "dinomix_version"  # stands beside the fields in what save_pretrained writes


class _Loader(yaml.SafeLoader):
    """YAML's plain values, more strictly: no key twice, no bombs; and 1e-3 is a number."""

    def get_single_node(self) -> yaml.Node | None:
        """As PyYAML's, but aliases of aliases cannot make a few lines stand for billions."""
        node = super().get_single_node()
        if node is not None and _count(node, {}) > MOST_VALUES:
            raise yaml.composer.ComposerError(
                None,
                None,
                "aliases (*name) stand for too many values: write them out",
                node.start_mark,
            )
        return node

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


def _count(node: yaml.Node, counts: dict[int, float]) -> float:
    """The values in a node, those that aliases stand for counted each time."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = math.inf  # of one that contains itself
        children = [
            child for item in node.value for child in (item if isinstance(item, tuple) else [item])
        ]
        counts[id(node)] = 1 + sum(_count(child, counts) for child in children)
    return counts[id(node)]


def parse_yaml(text: str) -> Any:
    """The value that YAML text stands for: dicts, lists, text, numbers, dates, None.

    Raises:
        ValueError: it is no YAML, has a key twice, more values through aliases than any config, or
            a tag that asks for an object; the line is named.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: data, never code
    except yaml.YAMLError as error:
        raise ValueError(_one_line(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply for a config") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML's own way with `!!bool perhaps`, or with the 31st of February
        raise ValueError(f"it holds a value that is none: {error}") from error


def read_fields(path: str | Path) -> dict[str, Any]:
    """The named values in a .yaml, .yml or .json file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another suffix, is larger than any config, is damaged, is empty, or holds
            something other than named values. The file is named, and the key or the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no config file {path}")
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise ValueError(f"{path}: a config file ends in .yaml, .yml or .json")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, too many for a config")
    with _named(path):
        text = path.read_text(encoding="utf-8-sig")
        values = _parse_json(text) if path.suffix == ".json" else parse_yaml(text)
        if values is None:
            raise ValueError('it is empty: write "name: value" lines')
        if not isinstance(values, dict):
            raise ValueError(
                f"it holds a {type(values).__name__} instead of named values: write "
                '"name: value" lines (JSON: {"name": value})'
            )
        return values


def read_model_config(path: str | Path, base: "ModelConfig | None" = None) -> "ModelConfig":
    """The config of a model in a file: fields of `ModelConfig`, those left out taken from `base`.

    Args:
        path: see `read_fields`; `config.json` of `save_pretrained` will do.
        base: None means `ModelConfig()`, the paper's best.

    Raises:
        as `read_fields`, and ValueError for a key that is no field, or a value that its field does
        not take; file, key and what would do are named.
    """
    from dinomix.model import ModelConfig

    fields = read_fields(path)
    fields.pop(VERSION, None)
    with _named(path):
        return ModelConfig.from_dict({**(base or ModelConfig()).to_dict(), **fields})


def check_fields(kind: type, values: Any, what: str) -> None:
    """Raise ValueError unless these are named fields of a dataclass; `what` is built of them."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} must be named fields, not {values!r}")
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := [key for key in values if key not in known]:
        raise ValueError(
            f"unknown in {what}: {', '.join(map(str, unknown))}; the fields are {', '.join(known)}"
        )


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_refuse_twins) if text.strip() else None
    except RecursionError as error:
        raise ValueError("it is nested too deeply for a config") from error


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} is there twice: keep one")
    return dict(pairs)


def _one_line(error: yaml.YAMLError) -> str:
    """What PyYAML says over several lines."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else problem
