"""Data sets: the toy city, and benchmarks from their original downloads."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dinomix.cli.app import MODELS, Device, Json, Trust, app, as_pixels, print_table

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


@app.command()
def audit(
    training: Annotated[Path, typer.Argument(help="GSV-Cities layout, or a folder of images")],
    test: Annotated[str, typer.Argument(help="a test set's folder, or a benchmark")],
    split: Annotated[str | None, typer.Option(help="of a folder: test (default) or val")] = None,
    model: Annotated[str | None, typer.Option(help=f"compare descriptors of {MODELS}")] = None,
    bits: Annotated[int, typer.Option(help="of 256 in which the same picture may differ")] = 32,
    similarity: Annotated[float, typer.Option(help="of descriptors that are alike")] = 0.95,
    out: Annotated[Path | None, typer.Option(help="CSV file of all pairs")] = None,
    gallery: Annotated[Path | None, typer.Option(help="picture of the worst pairs")] = None,
    trust: Trust = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Look for images that training and test set share, and for queries in the database.

    Copies, also of another size or quality, training images near a test image's position and,
    with a model, whatever has nearly the same descriptor.

    \b
    dinomix audit data/gsv-cities pitts30k-test --out leaks.csv --gallery leaks.png
    dinomix audit my_photos my_city --model data/runs/4c078f96577b --similarity 0.9
    """
    from dinomix.exchange.opening import open_model, open_testset
    from dinomix.figures import look_alikes, save_figure
    from dinomix.study import leaks
    from dinomix.study.results import save_table

    images, tested = leaks.open_images(training), open_testset(test, split)
    limits = {"bits": bits, "similarity": similarity, "progress": not as_json}
    if model:
        limits |= {"model": open_model(model, trust=trust), "device": device}
    table = leaks.audit(images, tested, **limits)
    if out:
        save_table(table, out)
    if gallery and len(table):
        save_figure(look_alikes(table), gallery, pdf=False)
    by = table.groupby(["part", "other_part", "finding"], observed=True, sort=False)["image"]
    found = by.agg(images="nunique", pairs="size").reset_index()
    if as_json:
        typer.echo(found.to_json(orient="records"))
    elif len(found):
        columns = ["images of", "shared with", "finding", "images", "pairs"]
        title = f"{tested.name} and {training}"
        print_table(columns, found.astype(str).to_numpy(), title, right=columns[3:])
    else:
        unseen = "" if model else "; descriptors were not compared, which takes --model"
        typer.echo(f"{tested.name} and {training}: nothing was found{unseen}")
