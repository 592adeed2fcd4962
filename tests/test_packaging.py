"""What the repository promises about itself: requirements in step, light imports, names."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import dinomix

ROOT = Path(__file__).parents[1]


def test_environment_yml_is_in_step_with_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{project['requires-python']}", "pip"]
    assert pip["pip"] == [*project["dependencies"], "--editable ."]


def test_version_is_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert dinomix.__version__ == project["version"]


def test_every_public_name_is_there():
    for name in dinomix.__all__:
        assert getattr(dinomix, name) is not None
        assert name in dir(dinomix)
    with pytest.raises(AttributeError, match="teleport"):
        _ = dinomix.teleport


def test_no_public_name_is_a_modules_too():
    """Importing `dinomix.<name>` would put the module in the place of what the name stands for."""
    modules = {path.stem for path in (ROOT / "dinomix").iterdir()}
    assert not modules & set(dinomix.__all__)


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, dinomix, dinomix.toycity\n"
        "heavy = {'torch', 'matplotlib', 'faiss', 'timm', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
