"""What all commands share: the app, how it fails, and options that mean the same everywhere."""

import importlib
import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer

from dinomix.plumbing import __version__
from dinomix.plumbing.errors import ExplainedError

# FloatingPointError: a training that diverged, a model whose weights are broken.
# ModuleNotFoundError: an extra that is not installed.
EXPECTED = (ValueError, OSError, FloatingPointError, ModuleNotFoundError, ExplainedError)


class Commands(typer.core.TyperGroup):
    """All commands; turns expected errors into a line on stderr and exit code 1."""

    def invoke(self, ctx: typer.Context) -> object:
        """As typer's, which gives wrong usage exit code 2; `--debug` shows every traceback."""
        try:
            return super().invoke(ctx)
        except EXPECTED as error:
            if ctx.params["debug"]:
                raise
            from dinomix.plumbing.configs import in_words

            typer.echo(f"error: {in_words(error)}", err=True)
            raise typer.Exit(1) from None


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"dinomix {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks of errors")] = False,
    module: Annotated[
        str | None,
        typer.Option("--import", help="module of yours, for example with aggregators to register"),
    ] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """DINO-Mix for visual place recognition.

    Data sets, runs and results lie in the data folder: DINOMIX_DATA, or data in the checkout.

    Exit codes: 0 done, 1 an error that its message explains, 2 wrong usage.
    """
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"  # no line of code
    if module is not None:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise typer.BadParameter(f"--import: there is no module {module!r}") from None


def _present(device: str) -> str:
    if device == "auto":
        return device
    from dinomix.retrieval import pick_device

    try:
        pick_device(device)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return device


def as_pixels(text: str) -> Any:
    """An image size as people write it: 112, 96x128 (height first; or 96,128), or native."""
    if text == "native":
        return text
    try:
        sides = [int(side) for side in str(text).replace(",", "x").split("x")]
    except ValueError:
        raise typer.BadParameter(f"{text!r}: write pixels, as 112 or 96x128") from None
    return sides[0] if len(sides) == 1 else tuple(sides)


MODELS = (
    "a run's folder, a file of save_model, a folder of save_pretrained, the name or the file of a "
    "published model (dinomix models lists them), a repository of the hub, as user/name, or code "
    "of others, as torchhub:owner/repository:entry"
)
Json = Annotated[bool, typer.Option("--json", help="print JSON, for a script")]
Overrides = Annotated[
    str, typer.Option("--set", help='values that win over others: "seeds=[0, 1]; epochs=2"')
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps", callback=_present)]
Workers = Annotated[int, typer.Option(min=0, help="processes that read images; 0: this one")]
SIZES = "side, heightxwidth, or native: each image's own; default: the model's"
ImageSize = Annotated[Any, typer.Option(parser=as_pixels, metavar="PIXELS", help=SIZES)]
Trust = Annotated[bool, typer.Option("--trust", help="run the code that torchhub:... names")]
BatchSize = Annotated[int, typer.Option(min=1, help="images that are described at once")]


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str,
    right: Sequence[str] = (),
    bold: Sequence[bool] = (),
) -> None:
    """A table on stdout: columns in `right` hold numbers, `bold` is one a row."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name in right else "left")
    for row, strong in zip_longest(rows, bold):
        table.add_row(*row, style="bold" if strong else None)
    # as wide as it is where a program reads it: there, no name is broken over two lines
    width = None if sys.stdout.isatty() else 10_000
    typer.echo(title)
    Console(markup=False, highlight=False, width=width).print(table)


def without_nan(value: Any) -> Any:
    """Dicts and lists with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
