"""Profiles: YAML files of papermill parameters, for the notebooks that they list."""

from pathlib import Path
from typing import Any

from dinomix.configfiles import read_fields
from dinomix.storage import to_json

KEYS = ("common", "notebooks")
Parameters = dict[str, Any]


def profile_path(profile: str, notebooks: Path) -> Path:
    """The file of a profile beside its notebooks.

    Raises:
        FileNotFoundError: there is none of this name; the ones that exist are named.
    """
    folder = notebooks / "profiles"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if profile not in known:  # no path, which would lead elsewhere
        raise FileNotFoundError(f"there is no profile {profile!r}; there are {known}")
    return folder / f"{profile}.yaml"


def read_profile(path: Path) -> tuple[Parameters, dict[str, Parameters]]:
    """The parameters that a profile gives to all its notebooks, and those of each of them.

    Raises:
        ValueError: it is no YAML of this form, names a notebook of another folder, or gives a
            parameter that is no plain value. The file is named, and the key.
    """
    content = read_fields(path)
    if set(content) != set(KEYS):
        raise ValueError(f"{path} has the keys {list(content)}; expected are {' and '.join(KEYS)}")
    notebooks = _named(content["notebooks"], path, "notebooks")
    for name in notebooks:
        if Path(name).name != name or "\\" in name:
            raise ValueError(f"{path}: {name!r} should be a notebook's name, without a folder")
    own = {name: _parameters(values, path, name) for name, values in notebooks.items()}
    return _parameters(content["common"], path, "common"), own


def _parameters(values: Any, path: Path, where: str) -> Parameters:
    parameters = _named(values, path, where)
    for name, value in parameters.items():
        try:
            to_json(value)
        except TypeError as error:
            raise ValueError(
                f"{path}: {name} of {where} is {value!r}, expected text, numbers, lists and names "
                "with values; what stands for something else, such as a date, needs quotes"
            ) from error
    return parameters


def _named(values: Any, path: Path, where: str) -> dict[str, Any]:
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{path}: {where} is {values!r}, expected names with values")
    return values
