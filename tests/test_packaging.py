"""What the repository promises about itself: requirements in step, light imports, names."""

import ast
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import dinomix

ROOT = Path(__file__).parents[1]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def brought_by(extra: str) -> list[str]:
    """The lines of an extra, those of the extras that it names in place of their names."""
    asked = {line: Requirement(line) for line in EXTRAS[extra]}
    others = {o for each in asked.values() if each.name == "dinomix" for o in each.extras}
    own = [line for line, each in asked.items() if each.name != "dinomix"]
    return own + [line for other in others for line in brought_by(other)]


def test_environment_yml_installs_the_extra_all_as_locked():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    *packages, lock, itself = pip["pip"]
    assert sorted(packages) == sorted([*PROJECT["dependencies"], *brought_by("all")])
    promised = {"torch", "jupyterlab", "papermill", "faiss-cpu", "seaborn", "grad-cam"}
    assert promised | {"ipywidgets", "tqdm"} <= {Requirement(line).name for line in packages}
    assert (lock, itself) == ("--constraint requirements.lock", "--editable .")


def requirements() -> list[Requirement]:
    """Everything that pyproject.toml asks for, in all extras."""
    lists = [PROJECT["dependencies"], *EXTRAS.values()]
    return [Requirement(line) for lines in lists for line in lines]


def test_the_lock_meets_pyproject_and_names_no_place():
    """A release for each package, or one for each range of Pythons. `make lock` writes it."""
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"/|@|--", text)  # no address, path or option
    locked: dict[str, list[str]] = {}
    for release in map(Requirement, re.findall(r"^[^#\n]+", text, re.MULTILINE)):
        (pin,) = release.specifier
        assert pin.operator == "==" and "*" not in pin.version
        locked.setdefault(release.name, []).append(pin.version)
    for asked in requirements():
        if asked.name != "dinomix":
            releases = locked[canonicalize_name(asked.name)]
            assert all(asked.specifier.contains(each) for each in releases), (asked, releases)


def is_bounded(specifier: SpecifierSet) -> bool:
    operators = {part.operator for part in specifier}
    return ">=" in operators and "<" in operators


@pytest.mark.parametrize("asked", requirements(), ids=str)
def test_a_requirement_has_two_bounds_and_is_met(asked):
    """Tested is what lies between; what is no longer, and what is not yet, is not let in."""
    if asked.name == "dinomix":
        return  # an extra that brings another one
    assert is_bounded(asked.specifier)
    try:
        installed = metadata.version(asked.name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{asked.name} is not installed here")
    assert asked.specifier.contains(installed, prereleases=True)


def test_a_missing_bound_would_be_seen():
    assert is_bounded(SpecifierSet(">=1,<2"))
    for open_ended in ("", ">=1", "<2", "==1.*"):
        assert not is_bounded(SpecifierSet(open_ended))


def test_every_public_name_is_there():
    for name in dinomix.__all__:
        assert getattr(dinomix, name) is not None
        assert name in dir(dinomix)
    with pytest.raises(AttributeError, match="teleport"):
        _ = dinomix.teleport


def test_editors_see_the_names_that_are_loaded_lazily():
    tree = ast.parse(Path(dinomix.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {line.module: [name.name for name in line.names] for line in block.body}
    expected = {f"dinomix.{home}": list(names) for home, names in dinomix.HOMES.items()}
    for name, room in dinomix.MODULES.items():
        expected.setdefault(f"dinomix.{room}", []).append(name)
    assert seen == expected


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("backbones.normalization", True),
        ("benchmarks.table", True),
        ("layouts.read_csv", True),
        ("reported.recalls", True),
        ("widgets.training_monitor", True),
        ("teleport", False),
        ("__main__", False),  # importing it would run the command
    ],
)
def test_modules_are_found_after_a_plain_import(name, there):
    """In a process of its own: here, others have imported them."""
    code = f"import sys, dinomix; assert 'torch' not in sys.modules; print(dinomix.{name})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode == 0) is there, done.stderr
    assert there or f"has no attribute '{name}'" in done.stderr


def test_no_public_name_is_a_modules_too():
    """Importing `dinomix.<name>` would put the module in the place of what the name stands for."""
    modules = {path.stem for path in (ROOT / "dinomix").iterdir()}
    assert not modules & set(dinomix.__all__)


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, dinomix, toycity\n"
        "heavy = {'torch', 'matplotlib', 'faiss', 'timm', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_citation_is_valid_and_of_this_version():
    """The keys that CFF 1.2.0 requires, and the paper's own."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert str(citation["version"]) == dinomix.__version__
    assert citation["authors"] == [{"name": "The dinomix developers"}]
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper)
    assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])
    assert (paper["journal"], paper["volume"], paper["year"]) == ("Scientific Reports", 14, 2024)
    assert str(paper["number"]) == "22100" and paper["doi"] == "10.1038/s41598-024-73853-3"


def test_changelog_tells_of_this_version():
    assert dinomix.__version__ == PROJECT["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]( - \d{4}-\d{2}-\d{2})?$", text, re.MULTILINE)
    assert versions[0][0] in ("Unreleased", dinomix.__version__)
    assert all(date for name, date in versions if name != "Unreleased")
    assert dinomix.__version__ in text


def modules() -> list[str]:
    listed = pkgutil.walk_packages([str(ROOT / "dinomix")], "dinomix.")
    return ["dinomix", *(m.name for m in listed if not m.name.endswith("__main__"))]


def test_all_but_two_rooms_and_dask_can_be_imported_without_the_extras():
    names = [Requirement(line).name.replace("-", "_") for line in brought_by("all")]
    names += ["pytorch_grad_cam", "cv2", "sklearn", "IPython", "traitlets", "nbclient"]
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({names}))\n"  # as if they were not installed
        f"for name in {modules()}:\n"
        "    try: importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error: print(name, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert told.pop("dinomix.runs.cluster").endswith(" pip install 'dinomix[cluster]'")
    assert {name.split(".")[1] for name in told} == {"pipeline", "widgets"}
    assert all(words.endswith(" pip install 'dinomix[notebooks]'") for words in told.values())


@pytest.mark.slow
def test_a_wheel_holds_all_files_of_both_packages_and_the_notebooks(tmp_path):
    """Built from a copy, for the checkout is not to be written to."""
    for name in ("dinomix", "toycity", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=lambda *_: ["__pycache__"])
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    files = [path.relative_to(tmp_path) for path in tmp_path.glob("*/**/*") if path.is_file()]
    here = {path.as_posix().removeprefix("dinomix/") for path in files}
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "."]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    within = {name.removeprefix("dinomix/") for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in within if ".dist-info/" not in name} == here
    assert {"py.typed", "toycity/py.typed", "notebooks/profiles/smoke.yaml"} <= here


@pytest.mark.parametrize("name", modules())
def test_everything_public_explains_itself(name):
    """Modules, functions, classes and their methods; one that overrides inherits what it says."""
    module = importlib.import_module(name)
    silent = [] if module.__doc__ else [name]
    for key, value in vars(module).items():
        own = getattr(value, "__module__", None) == name and not key.startswith("_")
        if not own or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if not value.__doc__ or value.__doc__.startswith(f"{key}("):  # dataclass's own is no help
            silent.append(f"{name}.{key}")
        for method in vars(value) if inspect.isclass(value) else ():
            member = inspect.getattr_static(value, method)
            kinds = (property, classmethod, staticmethod)
            if method.startswith("_") or not (inspect.isfunction(member) or type(member) in kinds):
                continue
            if not inspect.getdoc(getattr(value, method)):
                silent.append(f"{name}.{key}.{method}")
    assert not silent
