"""A profile's executed notebooks as a static site: no scripts, nothing loaded from elsewhere."""

import json
import re
import shutil
import tomllib
from functools import partial
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from PIL import Image

from dinomix.pipeline.notebooks import NOTEBOOKS, load_profile
from dinomix.plumbing.errors import MissingDataError
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.workspace import data_root

LARGEST = (1600, 1600)  # pixels of a figure on the index; in print it is the PDF that counts


def write_site(profile: str, folder: str | Path | None = None) -> Path:
    """Write a page for each notebook of a profile that has run; return `index.html`, of them all.

    That shows what each found, its figures and its tables. `folder` is by default `site/<profile>`
    in the data folder; what else lies there stays.

    Raises:
        FileNotFoundError: there is no such profile.
        MissingDataError: none of its notebooks has run.
    """
    data, names = data_root(), sorted(step.name for step in load_profile(profile))
    executed, drawn = data / "executed" / profile, data / "figures" / profile
    folder = Path(folder or data / "site" / profile)
    copies = {name: executed / f"{name}.ipynb" for name in names}
    ran = {name: nbformat.read(copy, 4) for name, copy in copies.items() if copy.is_file()}
    if not ran:
        raise MissingDataError(
            f"nothing in {executed}: no notebook has run; `dinomix run {profile}` runs them"
        )
    texts = tomllib.loads((NOTEBOOKS / "conclusions.toml").read_text("utf-8"))
    exporter = HTMLExporter(extra_template_paths=[str(Path(__file__).parent)])
    exporter.template_file = "site.html.j2"
    exporter.register_filter("inert", partial(re.sub, r' on\w+="[^"]*"', ""))  # no onload
    shown = {
        "profile": profile,
        "notebooks": ran,
        "missing": [name for name in names if name not in ran],
        "checked": [text["text"].strip() for text in texts.values()],
        "figures": _copy_figures(drawn, folder / "figures"),
        "tables": {file.stem: file.read_text("utf-8") for file in drawn.glob("tables/*.md")},
    }
    for name, notebook in {"index": nbformat.v4.new_notebook(), **ran}.items():
        page, _ = exporter.from_notebook_node(notebook, {**shown, "name": name})
        with atomic_path(folder / f"{name}.html") as temporary:
            temporary.write_text(page, encoding="utf-8")
    return folder / "index.html"


def _copy_figures(drawn: Path, folder: Path) -> dict[str, dict]:
    """Figures as small pictures, their PDFs and the tables as they are; what made each figure."""
    figures = {}
    for file in sorted(drawn.rglob("[!.]*.*")):
        copy = folder / file.relative_to(drawn)
        if file.suffix != ".png":
            with atomic_path(copy) as temporary:
                shutil.copyfile(file, temporary)
            continue
        with Image.open(file) as image, atomic_path(copy.with_suffix(".webp")) as temporary:
            image.thumbnail(LARGEST)
            image.save(temporary, quality=90)
            made = json.loads(image.info.get("dinomix", "{}"))
        print_name = file.with_suffix(".pdf" if file.with_suffix(".pdf").exists() else ".webp").name
        figures[file.stem] = {"size": image.size, "file": print_name, "made": made}
    return figures
