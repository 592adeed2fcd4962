import json
import re
import shutil
import subprocess

import matplotlib.pyplot as plt
import pytest
import torch

import dinomix
from dinomix.plumbing import provenance


@pytest.fixture(autouse=True)
def nothing_in_use(monkeypatch):
    monkeypatch.setattr(provenance, "USED", {})


def test_what_makes_a_result():
    provenance.use(profile="demo", runs="aa")
    provenance.use(profile="demo", runs="bb")
    provenance.use(runs="aa")
    found = provenance.describe(threshold=25)
    assert found["version"] == dinomix.__version__ and found["torch"] == torch.__version__
    assert found["device"].startswith("cuda" if torch.cuda.is_available() else "cpu")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["date"])
    assert (found["profile"], found["runs"], found["threshold"]) == ("demo", "aa; bb", "25")
    assert "runs" not in provenance.here() and provenance.here()["profile"] == "demo"


@pytest.fixture
def fresh_commit():
    provenance.commit.cache_clear()
    yield
    provenance.commit.cache_clear()


def test_commit(tmp_path, monkeypatch, fresh_commit):
    file = tmp_path / "dinomix" / "plumbing" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(file))

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", "-C", tmp_path, *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def commit():
        provenance.commit.cache_clear()
        return provenance.commit()

    assert commit() == ""
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "-m", "a release", "v1")
    short = git("rev-parse", "--short", "HEAD").strip()
    assert commit() == short
    file.write_text("changed")
    assert commit() == f"{short}-dirty"
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as a container sees a mounted one
    assert commit() == f"{short}-dirty"
    shutil.move(tmp_path / ".git", tmp_path / "other")
    assert commit() == ""


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ".PNG", ".PDF"])
def test_figures_carry_it(tmp_path, suffix):
    name = r"Intel(R) \ Größe {x}"  # what PDF and JSON escape
    figure, path = plt.figure(), tmp_path / f"a{suffix}"
    expected = provenance.for_figure(suffix, device=name, runs="aa & bb")
    figure.savefig(path, metadata=expected)
    plt.close(figure)
    found = provenance.read(path)
    assert (found["device"], found["runs"]) == (name, "aa & bb")
    assert found["version"] == dinomix.__version__


def test_tables_have_it_beside_them(tmp_path):
    table = tmp_path / "03_a.b.csv"
    provenance.write(provenance.beside(table), {"commit": "abc"})
    for path in (table, tmp_path / "03_a.b.queries.csv.gz"):
        path.write_bytes(b"")
        assert provenance.read(path) == {"commit": "abc"}


def test_what_went_on_elsewhere_is_told_beside_what_began(tmp_path, monkeypatch):
    path = tmp_path / "provenance.json"
    provenance.write(path, {"commit": "a", "device": "cpu", "after": "r"}, add=True)
    provenance.write(path, {"commit": "b", "device": "cpu"}, add=True)
    provenance.write(path, {"commit": "a", "device": "cpu"}, add=True)
    expected = {"commit": "a; b", "device": "cpu", "after": "r"}
    monkeypatch.chdir(tmp_path)
    assert provenance.read(".") == expected
    (tmp_path / "recall-1.csv").write_text("")
    assert provenance.read(tmp_path) == provenance.read(tmp_path / "recall-1.csv") == expected
    (tmp_path / "config.json").write_text(json.dumps({"model": {"depth": 2}, "finished": True}))
    assert provenance.read(tmp_path) == {"model": {"depth": 2}, "finished": True, **expected}


def test_what_says_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*a\.png"):
        provenance.read(tmp_path / "a.png")
    (tmp_path / "a.md").write_text("`dinomix {command}`")
    with pytest.raises(ValueError, match=r"nothing says what made .*a\.md"):
        provenance.read(tmp_path / "a.md")
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "a.provenance.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.provenance\.json: .*line 1"):
        provenance.read(tmp_path / "a.csv")
