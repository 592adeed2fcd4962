"""The site of a profile: what its pages show, and that they are enough by themselves."""

import io
import json
import re
import tomllib
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, PngImagePlugin

from dinomix.pipeline.notebooks import NOTEBOOKS
from dinomix.pipeline.site import write_site
from dinomix.plumbing.errors import MissingDataError
from tests import browsing
from tests.cli.test_cli import invoke

CLAIM = tomllib.loads((NOTEBOOKS / "conclusions.toml").read_text())["03"]["text"]
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
WIDGETS = {  # a view as ipywidgets writes it
    "shown": {},
    "hidden": {"display": "none"},
    "unseen": {"visibility": "hidden"},
    "view": {"_model_name": "VBoxModel", "children": ["row", "gone", "late", "bar"]},
    "row": {"_model_name": "HBoxModel", "children": ["menu", "marked", "none", "number", "html"]},
    "menu": {"description": "Method", "_options_labels": ["GeM", "B<Q"], "index": 1},
    "marked": {"description": "k", "_options_labels": ["1", "5", "10"], "index": [0, 2]},
    "none": {"description": "seed", "_options_labels": ["0"], "index": []},
    "number": {"description": "Query", "value": 7},
    "html": {"_model_name": "HTMLModel", "value": '<i onload="go(&quot;1&quot;)">first</i>'},
    "bar": {"_model_name": "FloatProgressModel", "value": 3.0, "max": 4.0},
    "gone": {"_model_name": "HTMLModel", "value": "gone", "layout": "hidden"},
    "late": {"_model_name": "HTMLModel", "value": "late", "layout": "unseen"},
}


def png(path: Path | None = None, size: tuple[int, int] = (40, 30), **words: str) -> str:
    """A picture in base64, and as a file."""
    info = PngImagePlugin.PngInfo()
    for name, text in words.items():
        info.add_text(name, text)
    Image.new("RGB", size, "red").save(buffer := io.BytesIO(), "PNG", pnginfo=info)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    return b64encode(buffer.getvalue()).decode()


def write_executed(folder: Path, name: str, title: str, *outputs: dict, **metadata) -> None:
    """An executed notebook, whose last cell has these outputs, each by its type."""
    shown = [new_output("display_data", {"text/plain": "plain", **output}) for output in outputs]
    cells = [new_markdown_cell(f"# {title}\n\nProse."), new_code_cell("1 + 1", outputs=shown)]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=metadata), folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("data")
    executed, figures = data / "executed" / "smoke", data / "figures" / "smoke"
    ids = {name: f"IPY_MODEL_{name}" for name in WIDGETS}
    models = {
        name: {
            "state": {
                **{"_model_name": "DropdownModel"},
                **state,
                "layout": ids[state.get("layout", "shown")],
                **(
                    {"children": [ids[c] for c in state["children"]]} if "children" in state else {}
                ),
            }
        }
        for name, state in WIDGETS.items()
    }
    table = "<table class='dataframe'><tr>" + "<td>a long column</td>" * 30 + "</tr></table>"
    outputs = {"image/png": png()}, {"text/html": table}, {"text/markdown": CLAIM}
    write_executed(executed, "03_benchmark", "03 Benchmark", *outputs)
    write_executed(executed, "04_mixer_depth", "04 Depth", {"text/markdown": "L = 2 leads."})
    widgets = {STATE: {"state": models, "version_major": 2, "version_minor": 0}}
    view = {VIEW: {"model_id": "view", "version_major": 2, "version_minor": 0}}
    write_executed(executed, "10_explore", "10 Explore", view, widgets=widgets)
    made = json.dumps({"version": "0.1.0", "commit": "abc1234-dirty", "device": "a <GPU>"})
    png(figures / "03_methods_city.png", size=(3200, 400), dinomix=made)
    (figures / "03_methods_city.pdf").write_bytes(b"%PDF")
    png(figures / "04_mixer_depth.png")
    for suffix in ("csv", "md", "tex"):
        table = figures / "tables" / f"03_recall.{suffix}"
        table.parent.mkdir(exist_ok=True)
        table.write_text("| method | R@1 |\n|---|---|\n| DINO-Mix | **39.2** |\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DINOMIX_DATA", str(data))
        index = write_site("smoke")
    assert index == data / "site" / "smoke" / "index.html"
    return index.parent


def text(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text()


def test_the_index_shows_claims_figures_and_tables_of_each_notebook(site):
    index = text(site, "index")
    assert re.findall(r'<h2 id="(\w+)"><a href="\1.html">', index) == [
        *("03_benchmark", "04_mixer_depth", "10_explore")
    ]
    assert "Not run: 00_toy_city, 01_backbone_surgery" in index
    third, fourth = (part.split("<h2")[0] for part in re.split(r'id="0[34]_\w+"', index)[1:])
    assert "Checked against these numbers" in third and "<strong>On the toy city.</strong>" in third
    assert "No claim is about these numbers" in fourth and "L = 2 leads." in fourth
    assert "<td><strong>39.2</strong></td>" in third and "03_recall.tex" in third
    assert "version 0.1.0, commit abc1234-dirty, torch , device a &lt;GPU&gt;" in third
    assert 'href="figures/03_methods_city.pdf"' in third
    assert 'href="figures/04_mixer_depth.webp"' in fourth  # where there is no PDF
    with Image.open(site / "figures" / "03_methods_city.webp") as image:
        assert image.size == (1600, 200)


class Loads(HTMLParser):
    """What a page loads or links, and its scripts and handlers."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses, self.scripts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        self.scripts += [name for name, _ in attributes if name.startswith("on")]
        self.scripts += [tag] * (tag in ("script", "iframe", "object"))


@pytest.mark.parametrize("name", ["index", "03_benchmark", "04_mixer_depth", "10_explore"])
def test_a_page_loads_only_what_lies_beside_it_and_runs_no_script(site, name):
    page = text(site, name)
    loads = Loads(page)
    assert not loads.scripts and "@import" not in page and "url(" not in page
    local = [urlsplit(a).path for a in loads.addresses if not a.startswith(("data:", "#"))]
    assert local and all((site / path).is_file() for path in local)
    assert "default-src 'none'" in page


def test_a_view_is_its_first_state(site):
    page = text(site, "10_explore")
    shown = page[page.index('<div class="view">') :]
    words = " ".join(re.sub("<[^>]+>", " ", shown).split())
    assert words == "Method B&lt;Q k 1 10 Query 7 first"
    assert re.search(r'<progress max="4.0" value="3.0">', shown)


def test_what_has_not_run_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match="dinomix run smoke"):
        write_site("smoke")
    with pytest.raises(FileNotFoundError, match="no profile 'nonsense'"):
        write_site("nonsense")
    write_executed(tmp_path / "executed" / "smoke", "03_benchmark", "03 Benchmark")
    out = tmp_path / "elsewhere"
    assert str(out / "index.html") in invoke("site", "smoke", "--out", out).stdout
    assert {path.name for path in out.iterdir()} == {"index.html", "03_benchmark.html"}


@pytest.mark.browser
@pytest.mark.parametrize("built", ["made", "smoke"])
def test_pages_open_in_light_and_dark_on_screens_and_phones(site, built, request, tmp_path):
    if lack := browsing.missing():
        (pytest.fail if request.config.getoption("--require-browser") else pytest.skip)(lack)
    if built == "smoke":  # with all that the notebooks show, where they have run as in CI
        try:
            site = write_site("smoke", tmp_path / "site").parent
        except MissingDataError as error:
            pytest.skip(f"{error}")
    papers = set()
    with browsing.open_page(tmp_path / "chromium") as (page, problems):
        page.on(
            "request", lambda asked: asked.url.startswith("http") and problems.append(asked.url)
        )
        for scheme, width in (("light", 1280), ("dark", 390)):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            for file in sorted(site.glob("*.html")):
                page.goto(file.as_uri())
                drawn = page.evaluate(
                    "Promise.all([...document.images].map(i => { i.loading = 'eager';"
                    " return i.decode().then(() => i.naturalWidth > 0) }))"
                )
                assert all(drawn), file
                assert page.evaluate("document.documentElement.scrollWidth") <= width, file
                papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert not problems, "\n".join(problems)
    assert papers == {"rgb(255, 255, 255)", "rgb(21, 24, 28)"}
