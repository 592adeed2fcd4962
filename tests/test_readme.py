"""README.md and docs/, taken at their word: code runs, commands exist, the map leads to code."""

import re
import tomllib
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import dinomix
from dinomix.cli import app
from dinomix.runs import cluster
from tests.conftest import code_blocks, write_places, write_testset
from toycity import ToyCityConfig, write_toycity

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
EVERYTHING = "\n".join([PAGE, *DOCS.values()])
blocks = partial(code_blocks, PAGE)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A stranger's folder, with what the first command renders and images of their own."""
    assert "dinomix toy --small --out data/town " in blocks("bash")[1]
    write_toycity(tmp_path / "data" / "town", ToyCityConfig.small(image_size=112), workers=1)
    write_places(tmp_path / "data" / "my_places", places=12)
    write_testset(tmp_path / "data" / "my_city")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path / "data"))


def test_the_code_runs_from_top_to_bottom(desk, capsys, monkeypatch):
    """As it stands, but for a download, fifteen of sixteen epochs of small batches, and Dask."""
    monkeypatch.setattr(cluster, "local_client", lambda workers: nullcontext())
    here = lambda client, test, jobs: ({key: test(job)} for key, job in jobs.items())  # noqa: E731
    monkeypatch.setattr(cluster, "compute", here)
    start = {}
    (first,) = blocks("python")
    exec(compile(first, "README.md", "exec"), start)
    assert start["table"]["dim"].unique() == [512] and len(start["run"].history) == 5
    assert re.search(r"\nsnow +[\d.]+ +[\d.]+ +[\d.]+\n", capsys.readouterr().out)
    after = {}
    for name, page in DOCS.items():
        after[name] = dict(start)
        for block in code_blocks(page, "python"):
            block = block.replace('"small")', '"small", epochs=1, places_per_batch=8)')
            if "timm/" in block:
                block = block.replace('weights="hub"', "weights=None")
            exec(compile(block, name, "exec"), after[name])
    assert after["evaluate.md"]["descriptors"].shape == (2, 512)
    assert after["scale.md"]["ranked"].shape == (len(start["test"].queries), 10)
    own = after["own-data.md"]
    assert own["run"].load().config == own["config"] and own["config"].stage == 3


def test_commands_and_targets_are_there():
    commands = get_command(app).commands
    lines = [line for block in code_blocks(EVERYTHING, "bash") for line in block.splitlines()]
    lines += re.findall(r"`((?:dinomix|make) [^`]+)`", EVERYTHING)
    called = [line.split("#")[0].split() for line in lines]
    assert sum(words[0] == "dinomix" for words in called) > 8
    makefile = (ROOT / "Makefile").read_text()
    for program, name, *rest in (words for words in called if words[0] in ("dinomix", "make")):
        if program == "make":
            assert re.search(rf"^{name.split('=')[0]} *(\?=|:)", makefile, re.MULTILINE), name
        else:
            known = {option for p in commands[name].params for option in p.opts}
            assert {word for word in rest if word.startswith("-")} <= known, (name, rest)


def test_the_map_names_what_is_in_the_linked_file():
    rows = re.findall(
        r"^\| [^|]+ \| \[(`[^\]]+`)\]\((dinomix/[\w/]+\.py)\) \|$", PAGE, re.MULTILINE
    )
    assert len(rows) == 10
    for names, path in rows:
        source = (ROOT / path).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(class|def) {name}\b", source, re.MULTILINE), (name, path)


def test_attributes_are_there_after_a_plain_import():
    named = set(re.findall(r"dinomix\.((?:\w+\.)*\w+)(?=[\s(`\[])", EVERYTHING)) - {"sqlite"}
    assert len(named) > 15
    for path in named:
        found = dinomix
        for name in path.split("."):
            found = getattr(found, name)


def test_the_citation_is_that_of_the_file():
    (entry,) = blocks("bibtex")
    fields = dict(re.findall(r"(\w+)\s+= \{(.*?)\}(?=,|\n)", entry))
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    authors = [f"{who['family-names']}, {who['given-names']}" for who in cited["authors"]]
    assert fields["author"] == " and ".join(authors)
    assert re.sub("[{}]", "", fields["title"]) == cited["title"]
    for name, key in (("journal", "journal"), ("volume", "volume"), ("pages", "number")):
        assert fields[name] == str(cited[key])
    assert (fields["year"], fields["doi"]) == (str(cited["year"]), cited["doi"])
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert f"https://doi.org/{cited['doi']}" == urls["Paper"]
    assert all(url in PAGE for url in urls.values())
