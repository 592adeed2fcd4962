"""CONTRIBUTING.md, taken at its word: its code runs, what it names is there."""

import re
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import dinomix
from dinomix.aggregators import AGGREGATORS
from dinomix.datasets.benchmarks import Benchmark
from tests.conftest import code_blocks, write_image, write_places

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
blocks = partial(code_blocks, PAGE)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A stranger's folder with a rendered toy city and photos of a city."""
    write_places(tmp_path / "data" / "toycity-small" / "train", places=10)
    rng = np.random.default_rng(0)
    for name, rows in zip(("database", "queries"), blocks("csv"), strict=True):
        table = tmp_path / "data" / "my_city" / f"{name}.csv"
        table.parent.mkdir(exist_ok=True)
        table.write_text(rows)
        for row in rows.splitlines()[1:]:
            write_image(table.parent / row.split(",")[0], rng)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path / "data"))
    yield tmp_path
    AGGREGATORS.pop("mean_max", None)


def test_the_code_runs_from_top_to_bottom(desk, capsys):
    names = {}
    for block in blocks("python"):
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "mean_max (weight 0.5)" in shown and "192 entries" in shown
    assert re.search(r"night +[\d.]+ +100\.0", shown)  # R@5: of three images, five are all
    model = dinomix.load_model("mean_max.safetensors")
    images = torch.randn(2, 3, 112, 112)
    maps = model.backbone(images)
    expected = torch.cat([maps.mean((2, 3)), 0.5 * maps.amax((2, 3))], dim=1)
    expected /= expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model(images), expected)


def test_a_benchmark_is_an_entry_of_the_facts():
    ((name, entry),) = tomllib.loads(*blocks("toml"))["benchmarks"].items()
    assert Benchmark(name, **entry).convention == "25 m"


def test_an_aggregator_is_ten_lines():
    example = blocks("python")[0]
    body = example[example.index("@") :].strip().splitlines()
    assert len([line for line in body if line.strip()]) <= 10


def test_what_is_named_is_there():
    paths = re.findall(r"`((?:dinomix|tests|benchmarks|notebooks)/[\w./]*\w|\.ci/run)`", PAGE)
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z]+)", PAGE, re.MULTILINE)):
        assert f"\n{target}:" in makefile, target


@pytest.mark.parametrize(
    "page",
    ["CONTRIBUTING.md", "README.md", *(f"docs/{p.name}" for p in sorted(ROOT.glob("docs/*.md")))],
)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)]+)", (ROOT / page).read_text())
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if anchor else []
        anchors = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
        assert not anchor or anchor in anchors, link


def test_reliability_names_tests_that_are_there():
    """A row `room/test_file.py::test_name`, or a name alone: of a test in any file."""
    page = (ROOT / "docs/reliability.md").read_text()
    files = re.findall(r"`([\w/]+\.py)", page)
    assert len(files) > 40
    for file in files:
        assert (ROOT / "tests" / file).is_file() or (ROOT / file).is_file(), file
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = re.findall(r"(?:::|`)(test_\w+)(?=\[|`)", page)
    assert len(named) > 60 and not set(named) - there, set(named) - there
