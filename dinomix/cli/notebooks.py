"""Profiles: what they need, their notebooks, their figures, their page."""

from pathlib import Path
from typing import Annotated

import typer

from dinomix.cli.app import Json, Overrides, app

Profile = Annotated[
    str, typer.Argument(help="smoke, demo, toy, paper, published, or a YAML file's name")
]
Only = Annotated[str | None, typer.Option(help='notebooks whose name starts so: "03", "03,04"')]


@app.command()
def check(profile: Profile, overrides: Overrides = "", as_json: Json = False) -> None:
    """Verify a profile's packages, data and weights before hours are spent.

    Writes nothing. Exit code 1 if anything is missing.

    \b
    dinomix check paper
    dinomix check toy --set "seeds=[0]" --json
    """
    from dinomix.pipeline.check import check
    from dinomix.plumbing.settings import parse_overrides

    table = check(profile, overrides=parse_overrides(overrides))
    if as_json:
        typer.echo(table.to_json(orient="records"))
    else:
        for what, found, needed, ok in table.itertuples(index=False):  # no table, to break no path
            wanted = "" if ok else f"\n    needed: {needed}"
            typer.secho(f"{'ok' if ok else 'NO'}  {what}: {found}{wanted}", bold=not ok)
    if not table["ok"].all():
        raise typer.Exit(1)


@app.command()
def run(
    profile: Profile,
    only: Only = None,
    overrides: Overrides = "",
    force: Annotated[bool, typer.Option("--force", help="run what is up to date, too")] = False,
) -> None:
    """Run a profile's notebooks, in order; those that are up to date are skipped.

    With --only, what these need is run, too.

    \b
    dinomix run demo
    dinomix run toy --only 04 --set "seeds=[0, 1, 2, 3]"
    """
    from dinomix.pipeline.notebooks import run_profile
    from dinomix.plumbing.settings import parse_overrides
    from dinomix.plumbing.workspace import data_root

    copies = run_profile(profile, only=only, overrides=parse_overrides(overrides), force=force)
    _report(copies, data_root() / "figures" / profile)
    _report_recall(data_root() / "results" / profile / "03_benchmark.csv")
    if profile == "demo":
        typer.echo("Next, look at what it retrieves, or run the whole study:")
        typer.echo("  make app\n  make study")


@app.command()
def figures(
    profile: Profile,
    folder: Annotated[Path | None, typer.Argument(help="default: figures/PROFILE")] = None,
    only: Only = None,
) -> None:
    """Draw a profile's figures again from finished runs; nothing is trained.

    \b
    dinomix figures toy
    dinomix figures toy /tmp/figures --only 03
    """
    from dinomix.pipeline.notebooks import draw_figures

    folder = folder or Path("figures") / profile
    _report(draw_figures(profile, folder, only), folder)


@app.command("provenance")
def provenance_of(
    path: Annotated[Path, typer.Argument(help="a run's folder, a model, a table or a figure")],
    as_json: Json = False,
) -> None:
    """Say what made a run, a table or a figure: version, commit, torch, device, date, data, runs.

    A commit that ends in -dirty had changes. A table in CSV has it in a file beside it.

    \b
    dinomix provenance figures/toy/05_dimension_toycity-test.pdf
    dinomix provenance data/runs/4c078f96577b --json
    """
    import json

    from dinomix.plumbing.provenance import read

    found = read(path)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            typer.echo(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")


def _report(copies: list[Path], figures: Path) -> None:
    lines = ["Executed notebooks:", *(f"  {copy}" for copy in copies), f"Figures:\n  {figures}"]
    typer.echo("\n".join(lines))


def _report_recall(table: Path) -> None:
    import pandas as pd

    from dinomix.study import compare
    from dinomix.study.results import queries_beside

    pair = ["GeM, ViT, frozen", "DINO-Mix"]
    if table.is_file() and set(pair) <= set((results := pd.read_csv(table))["method"]):
        typer.echo(f"Recall:\n  {compare(results, *pair, queries=queries_beside(table))}")


@app.command()
def page(
    profile: Profile,
    port: Annotated[int, typer.Option(help="or, where that is taken, the next free one")] = 8866,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="open no window")] = False,
) -> None:
    """Serve notebook 10 as a page, without code; what it needs is run first.

    \b
    dinomix page demo
    dinomix page toy --port 9000 --no-browser
    """
    from dinomix.pipeline.notebooks import run_profile
    from dinomix.pipeline.page import NOTEBOOK, serve

    *_, notebook = run_profile(profile, only=NOTEBOOK)  # it comes after its needs
    serve(notebook, port, open_browser=not no_browser)
