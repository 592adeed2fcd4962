"""Data sets: the toy city, and benchmarks from their original downloads."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dinomix.cli.app import Json, app, as_pixels

SETS = """pitts30k, pitts250k, tokyo247, nordland, sfxl, sfxl-small, svox, msls, msls-challenge,
amstertime, sped, eynsham or st_lucia"""


@app.command()
def toy(
    out: Annotated[
        Path | None, typer.Option(help="default: toycity (toycity-small) in the data folder")
    ] = None,
    image_size: Annotated[
        Any, typer.Option(parser=as_pixels, metavar="PIXELS", help="side, or heightxwidth")
    ] = "112",
    small: Annotated[bool, typer.Option("--small", help="a set that renders in seconds")] = False,
    workers: Annotated[int | None, typer.Option(help="processes; default: one a core")] = None,
    as_json: Json = False,
) -> None:
    """Render the toy city; one that is finished is left as it is.

    \b
    dinomix toy
    dinomix toy --small --image-size 96x128 --out /tmp/town
    """
    from dinomix.plumbing.workspace import data_root
    from toycity import ToyCityConfig, write_toycity

    config = (ToyCityConfig.small if small else ToyCityConfig)(image_size=image_size)
    folder = out or data_root() / ("toycity-small" if small else "toycity")
    written = str(write_toycity(folder, config, workers=workers, progress=not as_json))
    typer.echo(json.dumps({"folder": written}) if as_json else written)


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(metavar="SET", help=SETS)],
    raw: Annotated[Path, typer.Argument(help="folder of the original download; only read")],
    out: Annotated[Path | None, typer.Option(help="default: SET in the data folder")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="copy images instead of links")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="prepare without images that are missing")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a benchmark's original download into the layout that tests read.

    \b
    dinomix prepare pitts30k ~/downloads/pitts30k
    dinomix prepare tokyo247 ~/downloads/tokyo --out /data/tokyo247 --copy
    """
    from dinomix.datasets.prepare import prepare
    from dinomix.plumbing.workspace import data_root

    folder, options = out or data_root() / name, {"copy": copy, "allow_missing": allow_missing}
    summary = prepare(name, raw, folder, progress=not as_json, **options)
    typer.echo(json.dumps(dataclasses.asdict(summary), default=str) if as_json else summary)
