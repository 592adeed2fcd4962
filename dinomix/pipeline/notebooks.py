"""A profile, which gives parameters to the notebooks that it lists; its run through papermill."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from tqdm.auto import tqdm

from dinomix.pipeline.engine import ENGINE
from dinomix.plumbing.configs import plain
from dinomix.plumbing.errors import ExplainedError
from dinomix.plumbing.files import atomic_path, to_json
from dinomix.plumbing.settings import cell_values, read_fields, refuse_unknown, refuse_unlike
from dinomix.plumbing.workspace import NO_TRAINING, data_root, require
from dinomix.study.designs import Setup

CHECKOUT = Path(__file__).parents[2]
NOTEBOOKS = CHECKOUT / "notebooks"
PACKAGES = (CHECKOUT / "dinomix", CHECKOUT / "toycity")  # what executed notebooks depend on
LISTED = 30  # runs that are missing, at most
Parameters = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One notebook of a profile: its name without suffix, its parameters, what must run first."""

    name: str
    path: Path
    parameters: Mapping[str, Any]  # that the profile gives it
    needs: tuple[str, ...]
    values: Mapping[str, Any]  # that it will see: its parameters cell's, and these over them


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
        ValueError: the profile is damaged, gives what no notebook declares, or another kind of
            value than a parameter's default; or it goes in a circle.
    """
    overrides = plain(overrides or {})
    common, listed = _read_profile(profile, notebooks / "profiles")
    steps: dict[str, Step] = {}
    declared_anywhere: set[str] = set()
    for name, own in listed.items():
        path = notebooks / f"{name}.ipynb"
        notebook = _read(path)
        needs = notebook.metadata.get("dinomix", {}).get("needs", ())
        cells = [c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
        defaults = cell_values("\n".join(cells))
        declared_anywhere |= set(defaults)
        refuse_unknown(own, defaults, f"notebook {name}")
        given = {**common, **own, **overrides}
        parameters = {key: value for key, value in given.items() if key in defaults}
        refuse_unlike(parameters, defaults, f"notebook {name}")
        steps[name] = Step(name, path, parameters, tuple(needs), defaults | parameters)
    refuse_unknown({*common, *overrides}, declared_anywhere, f"profile {profile}")
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
    if set(content) != {"common", "notebooks"}:
        raise ValueError(f"{path} has the keys {list(content)}; expected are common and notebooks")
    notebooks = _named(content["notebooks"], path, "notebooks")
    own = {name: _named(values, path, name) for name, values in notebooks.items()}
    return _named(content["common"], path, "common"), own


def _named(values: Any, path: Path, where: str) -> Parameters:
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{path}: {where} is {values!r}, expected names with values")
    return values


def _read(path: Path) -> nbformat.NotebookNode:
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.ipynb"))
        raise FileNotFoundError(f"there is no notebook {path.name}; there are {known}")
    return nbformat.read(path, as_version=4)


def fingerprints(steps: Sequence[Step]) -> dict[str, str]:
    """What each executed copy depends on: sources of notebook and packages, parameters, needs."""
    package = hashlib.sha256()
    folders = (*PACKAGES, NOTEBOOKS)  # which has conclusions.toml
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if path.suffix in (".py", ".toml", ".csv", ".j2"):  # code, and the data beside it
            package.update(path.read_bytes())
    found: dict[str, str] = {}
    for step in steps:
        cells = [cell.source for cell in _read(step.path).cells]
        upstream = [found[name] for name in step.needs if name in found]
        given = repr(sorted(step.parameters.items()))
        content = to_json([cells, given, upstream, package.hexdigest()])
        found[step.name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return found


def run_profile(
    profile: str,
    *,
    only: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    needs: bool = True,
    data: Path | None = None,
    notebooks: Path = NOTEBOOKS,
) -> list[Path]:
    """Execute what is not up to date; return the executed copies, `<data>/executed/<profile>/`.

    A copy appears under its name when the notebook has ended well; one that failed is kept as
    `<name>.unfinished.ipynb`, to be looked at.

    Args:
        only: run the notebooks whose name starts so, as "03" or "03,04", and what they need.
        force: run what is up to date, too.
        needs: False leaves out what they need.
        data: the data folder; None means `data_root()`.

    Raises:
        NotebookFailedError: a notebook failed.
        ValueError: no notebook's name starts with `only`, or a model or recipe has a wrong value;
            and as `load_profile`.
    """
    data = data_root() if data is None else Path(data)
    steps = load_profile(profile, overrides, notebooks)
    wanted = _chosen(steps, only, needs)
    current = fingerprints(steps)
    folder = data / "executed" / profile
    copies = []
    todo = [step for step in steps if step.name in wanted]
    for step in todo:
        Setup(data, step.values).experiments()  # refuses wrong configs before anything runs
    with (
        tqdm(todo, desc=profile, unit="notebook") as bar,
        tqdm(bar_format="{desc}", disable=None, leave=False) as inside,  # None: if no terminal
    ):

        def show(text: str) -> None:
            inside.set_description_str(text[: shutil.get_terminal_size().columns - 1])

        for step in bar:
            bar.set_postfix_str(step.name)
            copy = folder / f"{step.name}.ipynb"
            done = copy.is_file() and _read(copy).metadata.get("dinomix", {}).get("fingerprint")
            if force or done != current[step.name]:
                _execute(step, copy, current[step.name], data, show)
            copies.append(copy)
    return copies


def _execute(
    step: Step, copy: Path, fingerprint: str, data: Path, show: Callable[[str], None]
) -> None:
    unfinished = copy.with_suffix(".unfinished.ipynb")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    os.environ["DINOMIX_DATA"] = str(data.absolute())  # the kernel inherits it
    # In this environment, whatever kernel the notebook was saved under.
    options = {"kernel_name": "python3", "language": "python", "cwd": step.path.parent}
    options |= {"progress_bar": False, "engine_name": ENGINE, "show": show}
    # It warns each time that it listens on TCP.
    options["extra_arguments"] = ["--IPKernelApp.log_level=ERROR"]
    try:
        papermill.execute_notebook(step.path, unfinished, dict(step.parameters), **options)
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        why = ": its kernel was killed, most likely for want of memory"
        if isinstance(error, papermill.PapermillExecutionError):
            why = f" with {error.ename}: {error.evalue}"
        raise NotebookFailedError(
            f"{step.name} stopped{why}\nThe notebook as far as it came: {unfinished}"
        ) from None
    notebook = _read(unfinished)
    notebook.metadata.setdefault("dinomix", {})["fingerprint"] = fingerprint
    with atomic_path(unfinished) as temporary:
        nbformat.write(notebook, temporary)
    os.replace(unfinished, copy)


def _chosen(steps: Sequence[Step], only: str | None, needs: bool) -> set[str]:
    names, chosen = [step.name for step in steps], set()
    for start in (only or "").replace(" ", "").strip(",").split(","):
        found = {name for name in names if name.startswith(start)}
        if not found:
            raise ValueError(f"no notebook's name starts with {start!r}; there are {names}")
        chosen |= found
    for step in reversed(steps):  # each comes after its needs
        if needs and step.name in chosen:
            chosen.update(step.needs)
    return chosen


def draw_figures(
    profile: str, folder: Path, only: str | None = None, notebooks: Path = NOTEBOOKS
) -> list[Path]:
    """Make a profile's figures and tables again from finished runs, copy them to `folder`; as
    `run_profile`.

    Nothing is trained, and of `only` some notebooks nothing runs that they need. When all have
    run, those that no notebook makes any more go. ExplainedError names the models that are not
    trained yet, before anything runs.
    """
    steps = load_profile(profile, notebooks=notebooks)
    chosen = _chosen(steps, only, needs=False)
    _require_runs(profile, [step for step in steps if step.name in chosen])
    drawn = data_root() / "figures" / profile
    before = {path: path.stat().st_mtime_ns for path in _outputs(drawn)}
    os.environ[NO_TRAINING] = "1"
    copies = run_profile(profile, only=only, force=True, needs=False, notebooks=notebooks)
    made = [f for f in _outputs(drawn) if f.stat().st_mtime_ns != before.get(f)]
    for file in made:
        with atomic_path(folder / file.relative_to(drawn)) as temporary:
            shutil.copyfile(file, temporary)
    for old in set() if only else {*_outputs(folder), *_outputs(drawn)}:
        if old.name not in [file.name for file in made]:
            old.unlink()
    return copies


def _outputs(folder: Path) -> list[Path]:
    """The figures and tables in a folder of them."""
    return [*folder.glob("*.png"), *folder.glob("*.pdf"), *folder.glob("tables/*")]


def _require_runs(profile: str, steps: Sequence[Step]) -> None:
    missing = []
    for step in steps:
        setup = Setup(data_root(), step.values)
        aerial = step.values.get("crossview_folder")  # rendered by the notebook itself
        require(setup.sets() | ({aerial: f"run notebook {step.name}"} if aerial else {}))
        for study, variants in setup.experiments():
            missing += [f"\n  {step.name}: {v}" for v in variants if not study.is_trained(v)]
    if missing:
        more = f"\n  and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        raise ExplainedError(
            "figures are drawn from finished runs, and these are not there; `dinomix run "
            f"{profile}` makes them:{''.join(missing[:LISTED])}{more}"
        )
