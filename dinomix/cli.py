"""The command `dinomix`.

A command is a function below, its docstring the help. What it needs is imported where it is used,
so that `dinomix --help` is instant. An error that its message explains is shown as one line;
`dinomix --debug <command>` shows where it came from.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer


class Commands(typer.core.TyperGroup):
    """All commands; turns expected errors into a line on stderr and exit code 1."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if ctx.params["debug"] or not _is_expected(error):
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None


def _is_expected(error: Exception) -> bool:
    from dinomix.pipeline import NotebookFailedError

    return isinstance(error, (ValueError, OSError, NotebookFailedError))


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Profile = Annotated[str, typer.Argument(help="smoke, demo, toy, paper, or a YAML file's name")]
Only = Annotated[
    str | None, typer.Option(help="only notebooks whose name starts so, and what they need")
]
Overrides = Annotated[
    str,
    typer.Option("--set", help='parameters that win over the profile\'s: "seeds=[0, 1]; epochs=2"'),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for a script")]


@app.callback()
def common(debug: Annotated[bool, typer.Option(help="show tracebacks of errors")] = False) -> None:
    """DINO-Mix for visual place recognition.

    Data sets, runs and results lie in the data folder: DINOMIX_DATA, or data in the checkout.
    """


@app.command()
def prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SET",
            help="pitts30k, pitts250k, tokyo247, nordland, sfxl, sfxl-small or msls",
        ),
    ],
    raw: Annotated[Path, typer.Argument(help="folder of the original download; only read")],
    out: Annotated[Path | None, typer.Option(help="default: SET in the data folder")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="copy images instead of links")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="prepare without images that are missing")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a benchmark's original download into the layout that tests read."""
    from dinomix.prepare import prepare
    from dinomix.workspace import data_root

    folder = data_root() / name if out is None else out
    summary = prepare(
        name, raw, folder, copy=copy, allow_missing=allow_missing, progress=not as_json
    )
    shown = json.dumps(dataclasses.asdict(summary), default=str) if as_json else str(summary)
    typer.echo(shown)


@app.command()
def check(profile: Profile, overrides: Overrides = "", as_json: Json = False) -> None:
    """Verify a profile's data, weights, disk and memory before hours are spent.

    Writes nothing. Exit code 1 if anything is missing.
    """
    from dinomix.check import check
    from dinomix.pipeline import parse_overrides

    table = check(profile, overrides=parse_overrides(overrides))
    if as_json:
        typer.echo(table.to_json(orient="records"))
    else:
        from rich.console import Console
        from rich.table import Column, Table

        shown = Table("", *(Column(name, overflow="fold") for name in table.columns[:-1]))
        for *texts, ok in table.itertuples(index=False):
            shown.add_row("ok" if ok else "NO", *texts, style=None if ok else "bold")
        Console(markup=False, highlight=False).print(shown)
    if not table["ok"].all():
        raise typer.Exit(1)


@app.command()
def run(
    profile: Profile,
    only: Only = None,
    overrides: Overrides = "",
    force: Annotated[bool, typer.Option("--force", help="run what is up to date, too")] = False,
) -> None:
    """Run a profile's notebooks, in order; those that are up to date are skipped."""
    from dinomix.pipeline import parse_overrides, run_and_report

    run_and_report(profile, only=only, overrides=parse_overrides(overrides), force=force)


@app.command()
def figures(
    profile: Profile,
    folder: Annotated[Path | None, typer.Argument(help="default: figures/PROFILE")] = None,
    only: Only = None,
) -> None:
    """Draw a profile's figures again from finished runs; nothing is trained."""
    from dinomix.pipeline import run_and_report

    run_and_report(profile, only=only, figures=folder or Path("figures") / profile)


@app.command()
def toy(
    out: Annotated[Path | None, typer.Option(help="default: toycity in the data folder")] = None,
    image_size: Annotated[int, typer.Option(help="side in pixels")] = 112,
    small: Annotated[bool, typer.Option("--small", help="a set that renders in seconds")] = False,
    workers: Annotated[int | None, typer.Option(help="processes; default: one a core")] = None,
) -> None:
    """Render the toy city; one that is finished is left as it is."""
    from dinomix.toycity import ToyCityConfig, write_toycity
    from dinomix.workspace import data_root

    config = (ToyCityConfig.small if small else ToyCityConfig)(image_size=image_size)
    folder = data_root() / "toycity" if out is None else out
    typer.echo(write_toycity(folder, config, workers=workers))
