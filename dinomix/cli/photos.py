"""Own photos: where they were taken."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinomix.cli.app import (
    MODELS,
    BatchSize,
    Device,
    ImageSize,
    Json,
    Trust,
    Workers,
    app,
    print_table,
    without_nan,
)

if TYPE_CHECKING:
    from dinomix.localization import Localization

COLUMNS = ("", "similarity", "to estimate", "position", "image")


@app.command()
def localize(
    database: Annotated[
        Path, typer.Option(help="folder of photos, with all folders in it, or a CSV file of them")
    ],
    query: Annotated[
        list[Path], typer.Option(help="a photo, a folder or a CSV file; may be given several times")
    ],
    model: Annotated[
        str | None, typer.Option(help=f"{MODELS}; default: a small stand-in, to try things out")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="instead: a preset on a pretrained backbone (gem_dinov2)")
    ] = None,
    weights: Annotated[str, typer.Option(help="of the preset: a file, or hub (download)")] = "hub",
    k: Annotated[int, typer.Option("-k", min=1, help="matches for each query")] = 5,
    radius: Annotated[float, typer.Option(help="metres within which matches agree")] = 25.0,
    index: Annotated[
        Path | None,
        typer.Option(
            help="file that keeps the database's descriptors; default: .dinomix.sqlite in its "
            "folder, or a file in the data folder if that is read-only"
        ),
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="write queries and matches side by side: .html or .png")
    ] = None,
    chart: Annotated[
        Path | None, typer.Option("--map", help="write what is known in degrees: .geojson or .kml")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="write the matches as a CSV file")] = None,
    reject: Annotated[
        Path | None,
        typer.Option(help="leave unsure answers out: a file that dinomix calibrate wrote"),
    ] = None,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="leave damaged queries out, too")
    ] = False,
    trust: Trust = False,
    device: Device = "auto",
    workers: Workers = 0,
    image_size: ImageSize = None,
    batch_size: BatchSize = 32,
    as_json: Json = False,
) -> None:
    """Find where photos were taken, among the photos of a database.

    Positions come from the database's CSV file (image and latitude, longitude or utm_east,
    utm_north), from names in the UTM layout, or from EXIF GPS tags. Photos without one are found
    as well. Photos that are known from an earlier call are not described again; a query that is
    itself in the database is found there, with similarity 1.

    \b
    dinomix localize --database photos/ --query img.jpg
    dinomix localize --database photos/ --query new/ --model data/runs/0123456789ab \\
        --gallery found.html --map found.kml
    """
    from dinomix.localization import Calibration, localize, write_gallery, write_map
    from dinomix.localization.gallery import GALLERIES
    from dinomix.localization.maps import MAPS
    from dinomix.plumbing.files import require_suffix
    from dinomix.retrieval import SkippedImageWarning
    from dinomix.study.results import save_table

    if gallery is not None:  # before hours of describing
        require_suffix(gallery, "a gallery", *GALLERIES)
    if chart is not None:
        require_suffix(chart, "a map", *MAPS)
    calibration = None if reject is None else Calibration.load(reject)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedImageWarning)  # they are listed below
        chosen = _model(model, preset, weights, trust=trust, image_size=image_size)
        options = {"k": k, "radius": radius, "index": index or "auto", "progress": not as_json}
        options |= {"on_error": "skip" if skip_damaged else "raise", "device": device}
        options |= {"workers": workers, "batch_size": batch_size, "image_size": image_size}
        found = localize(chosen, database, query, reject=calibration, **options)
    for path in found.skipped:
        typer.echo(f"skipped, for it cannot be read: {path}", err=True)
    if as_json:
        typer.echo(json.dumps(without_nan(found.to_dict())))
    else:
        _print(found)
    # last: if one cannot be written, what was found is not lost
    files = [
        (save_table, found.matches, csv),
        (write_gallery, found, gallery),
        (write_map, found, chart),
    ]
    for write, what, path in files:
        if path is not None:
            write(what, path)
            if not as_json:
                typer.echo(f"written: {path}")


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help=MODELS)],
    test: Annotated[str, typer.Argument(help="labelled set: as of dinomix evaluate")],
    precision: Annotated[float, typer.Option(help="share of the answers that are to be right")],
    method: Annotated[str, typer.Option(help="margin, spread or similarity")] = "margin",
    split: Annotated[str | None, typer.Option(help="of a folder: test (default) or val")] = None,
    out: Annotated[Path, typer.Option(help="JSON file to write")] = Path("calibration.json"),
    trust: Trust = False,
    image_size: ImageSize = None,
    device: Device = "auto",
    workers: Workers = 0,
    batch_size: BatchSize = 32,
) -> None:
    """Choose from which confidence on dinomix localize answers, for a precision.

    By a labelled set: the precision holds for places, conditions and a database like its own.
    A similarity means something else in another city; how far the best match is ahead of the best
    one of another place (margin), or how close the first ten lie (spread), changes less.

    \b
    dinomix calibrate data/runs/4c078f96577b my_city --precision 0.95
    dinomix calibrate data/runs/4c078f96577b my_city --precision 0.99 --method spread
    dinomix localize --model data/runs/4c078f96577b --database photos/ --query new/ \\
        --reject calibration.json
    """
    from dinomix.exchange.opening import open_model, open_testset
    from dinomix.localization import calibrate

    opened = open_testset(test, split)
    options = {"device": device, "workers": workers, "batch_size": batch_size}
    chosen = open_model(model, trust=trust, image_size=image_size)
    made = calibrate(chosen, opened, precision, method, image_size=image_size, **options)
    made.save(out)
    typer.echo(
        f"{made.method} >= {made.threshold:.4f}: {made.answered * made.queries:,.0f} of "
        f"{made.queries:,} queries are answered, of these {made.precision:.1%} rightly\n"
        f"written: {out}"
    )


def _model(model: str | None, preset: str | None, weights: str, **foreign: Any) -> Any:
    from dinomix.exchange.opening import open_model
    from dinomix.localization import stand_in, zero_shot

    if model is not None and preset is not None:
        raise typer.BadParameter("give --model or --preset, not both")
    if model is not None:
        return open_model(model, **foreign)
    if preset is not None:
        return zero_shot(preset, weights)
    note = "no --model and no --preset, so a small stand-in searches that has learnt from rendered "
    typer.echo(f"note: {note}streets alone. It often misses.", err=True)
    return stand_in()


def _print(found: "Localization") -> None:
    from dinomix.localization.localizing import distance_text, position_text, shown

    for estimate, matches in found.by_query():
        rows = []
        for m in matches:
            similarity, metres = f"{m['similarity']:.3f}", distance_text(m["metres"])
            rows.append([str(m["rank"]), similarity, metres, position_text(m), shown(m["image"])])
        title = f"{shown(estimate['query'])}\n{found.verdict(estimate, matches)}"
        print_table(COLUMNS, rows, title, COLUMNS[:3], bold=[m["agrees"] for m in matches])
    typer.echo(shown(found.summary))
