"""A profile, which gives parameters to the notebooks that it lists; its run through papermill."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import nbformat
from tqdm.auto import tqdm

from dinomix.plumbing.errors import ExplainedError
from dinomix.plumbing.files import atomic_path, to_json
from dinomix.plumbing.settings import read_fields
from dinomix.plumbing.workspace import NO_TRAINING, data_root

CHECKOUT = Path(__file__).parents[2]
NOTEBOOKS = CHECKOUT / "notebooks"
PACKAGES = (CHECKOUT / "dinomix", CHECKOUT / "toycity")  # what executed notebooks depend on
SOURCES = (".py", ".toml", ".csv", ".j2")  # code, and the data beside it
KEYS = ("common", "notebooks")
Parameters = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One notebook of a profile: its name without suffix, its parameters, what must run first."""

    name: str
    path: Path
    parameters: Mapping[str, Any]
    needs: tuple[str, ...]


class NotebookFailedError(ExplainedError):
    """A notebook that stopped with an error."""


def load_profile(
    profile: str, overrides: Mapping[str, Any] | None = None, notebooks: Path = NOTEBOOKS
) -> list[Step]:
    """The steps of a profile, each after those it needs.

    Args:
        profile: name of a file in `notebooks/profiles`, without suffix.
        overrides: parameters that win over the profile's, in every notebook that declares them.

    Raises:
        FileNotFoundError: no such profile or notebook; the ones that exist are named.
        ValueError: the profile is damaged, gives what no notebook declares, or goes in a circle.
    """
    import papermill

    overrides = overrides or {}
    common, listed = _read_profile(profile, notebooks / "profiles")
    steps: dict[str, Step] = {}
    declared_anywhere: set[str] = set()
    for name, own in listed.items():
        path = notebooks / f"{name}.ipynb"
        about = _read(path).metadata.get("dinomix", {})
        declared = set(papermill.inspect_notebook(path))
        declared_anywhere |= declared
        _refuse_unknown(set(own) - declared, f"notebook {name}", declared)
        given = {**common, **own, **overrides}
        parameters = {key: value for key, value in given.items() if key in declared}
        steps[name] = Step(name, path, parameters, tuple(about.get("needs", ())))
    unknown = {*common, *overrides} - declared_anywhere
    _refuse_unknown(unknown, f"profile {profile}", declared_anywhere)
    graph = {name: [n for n in step.needs if n in steps] for name, step in steps.items()}
    return [steps[name] for name in TopologicalSorter(graph).static_order()]


def _read_profile(profile: str, folder: Path) -> tuple[Parameters, dict[str, Parameters]]:
    """The parameters that a profile gives to all its notebooks, and to each of them."""
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if not known:
        raise FileNotFoundError(
            f"there are no profiles in {folder}: they and the notebooks come with dinomix's "
            "repository, not with the package alone; install it from a clone (`pip install -e .`)"
        )
    if profile not in known:  # no path, which would lead elsewhere
        raise FileNotFoundError(f"there is no profile {profile!r}; there are {known}")
    path = folder / f"{profile}.yaml"
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
        except (TypeError, ValueError) as error:  # of an alias of what it lies in, too
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


def _read(path: Path) -> nbformat.NotebookNode:
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.ipynb"))
        raise FileNotFoundError(f"there is no notebook {path.name}; there are {known}")
    return nbformat.read(path, as_version=4)


def _refuse_unknown(names: set[str], where: str, declared: set[str]) -> None:
    if names:
        raise ValueError(
            f"{where} is given {sorted(names)}, which no parameters cell declares; "
            f"declared are {sorted(declared)}"
        )


def fingerprints(steps: Sequence[Step]) -> dict[str, str]:
    """What each executed copy depends on: sources of notebook and packages, parameters, needs."""
    package = hashlib.sha256()
    folders = (*PACKAGES, NOTEBOOKS)  # which has conclusions.toml
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if path.suffix in SOURCES:
            package.update(path.read_bytes())
    found: dict[str, str] = {}
    for step in steps:
        cells = [cell.source for cell in _read(step.path).cells]
        upstream = [found[name] for name in step.needs if name in found]
        content = to_json([cells, dict(step.parameters), upstream, package.hexdigest()])
        found[step.name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return found


def run_profile(
    profile: str,
    *,
    only: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    data: Path | None = None,
    notebooks: Path = NOTEBOOKS,
) -> list[Path]:
    """Execute what is not up to date; return the executed copies, `<data>/executed/<profile>/`.

    A copy appears under its name when the notebook has ended well; one that failed is kept as
    `<name>.unfinished.ipynb`, to be looked at.

    Args:
        only: run the notebooks whose name starts so, and what they need.
        force: run what is up to date, too.
        data: the data folder; None means `data_root()`.

    Raises:
        NotebookFailedError: a notebook failed.
        ValueError: no notebook's name starts with `only`; and as `load_profile`.
    """
    data = data_root() if data is None else Path(data)
    steps = load_profile(profile, overrides, notebooks)
    wanted = _with_needs(steps, only)
    current = fingerprints(steps)
    folder = data / "executed" / profile
    copies = []
    with tqdm([s for s in steps if s.name in wanted], desc=profile, unit="notebook") as bar:
        for step in bar:
            bar.set_postfix_str(step.name)
            copy = folder / f"{step.name}.ipynb"
            done = copy.is_file() and _read(copy).metadata.get("dinomix", {}).get("fingerprint")
            if force or done != current[step.name]:
                _execute(step, copy, current[step.name], data)
            copies.append(copy)
    return copies


def _execute(step: Step, copy: Path, fingerprint: str, data: Path) -> None:
    import papermill

    unfinished = copy.with_suffix(".unfinished.ipynb")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    os.environ["DINOMIX_DATA"] = str(data.absolute())  # the kernel inherits it
    try:
        quiet = ["--IPKernelApp.log_level=ERROR"]  # it warns each time that it listens on TCP
        options = {"cwd": step.path.parent, "progress_bar": False, "extra_arguments": quiet}
        papermill.execute_notebook(step.path, unfinished, dict(step.parameters), **options)
    except papermill.PapermillExecutionError as error:
        raise NotebookFailedError(
            f"{step.name} stopped with {error.ename}: {error.evalue}\n"
            f"The notebook as far as it came: {unfinished}"
        ) from None
    notebook = _read(unfinished)
    notebook.metadata.setdefault("dinomix", {})["fingerprint"] = fingerprint
    with atomic_path(unfinished) as temporary:
        nbformat.write(notebook, temporary)
    os.replace(unfinished, copy)


def _with_needs(steps: Sequence[Step], only: str | None) -> set[str]:
    names = [step.name for step in steps]
    wanted = {name for name in names if name.startswith(only or "")}
    if not wanted:
        raise ValueError(f"no notebook's name starts with {only!r}; there are {names}")
    for step in reversed(steps):  # each comes after its needs
        if step.name in wanted:
            wanted.update(step.needs)
    return wanted


def draw_figures(profile: str, folder: Path, only: str | None = None) -> list[Path]:
    """Draw a profile's figures again from finished runs, copy them to `folder`; as `run_profile`.

    Nothing is trained. Figures that no notebook draws any more go, unless only some notebooks run.
    """
    drawn = data_root() / "figures" / profile
    os.environ[NO_TRAINING] = "1"
    if not only:
        shutil.rmtree(drawn, ignore_errors=True)
    copies = run_profile(profile, only=only, force=True)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        if not only and not (drawn / old.name).exists():
            old.unlink()
    for figure in drawn.glob("*.png"):
        with atomic_path(folder / figure.name) as temporary:
            shutil.copyfile(figure, temporary)
    return copies
