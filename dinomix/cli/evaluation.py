"""Evaluation: recall of a model on test sets."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    import pandas as pd

    from dinomix.data import TestSet


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help=MODELS)],
    tests: Annotated[
        list[str],
        typer.Argument(metavar="TEST...", help="folders (UTM layout, or CSV files) or benchmarks"),
    ],
    split: Annotated[str | None, typer.Option(help="of folders: test (default) or val")] = None,
    frames: Annotated[float | None, typer.Option(help="of numbered frames: the tolerance")] = None,
    ks: Annotated[str, typer.Option("--k", help="the k of recall@k, with commas")] = "1,5,10",
    other_counts: Annotated[
        bool, typer.Option("--other-counts", help="open benchmarks with other numbers of images")
    ] = False,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="leave damaged images out; such a query fails")
    ] = False,
    trust: Trust = False,
    image_size: ImageSize = None,
    store: Annotated[
        Path | None, typer.Option(help="folder to keep the databases' descriptors in")
    ] = None,
    submission: Annotated[
        Path | None, typer.Option(help="write the MSLS challenge's file for one test set")
    ] = None,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV, for a script")] = False,
    per_query: Annotated[
        Path | None, typer.Option(help="write a CSV file with a row for each query, too")
    ] = None,
) -> None:
    """Measure a model's recall on test sets.

    In percent, for each condition; a test set is judged by its own convention. In brackets (low
    and high) is the 95 % interval over groups of queries, such as all of one place. CSV files are
    database.csv and queries.csv (image, latitude, longitude); frames lie in database and queries.
    Test sets named one after the other that share a database, as those of SF-XL, describe it once.

    \b
    dinomix evaluate data/runs/4c078f96577b data/toycity
    dinomix evaluate dinov2_vitb14_mix.ckpt pitts30k-test tokyo247 --k 1,5,20
    dinomix evaluate dinov2_vitb14_mix.ckpt railway --frames 10
    dinomix evaluate ResNet50_2048_cosplace.pth tokyo247 --image-size native
    dinomix evaluate torchhub:gmberton/MegaLoc:get_trained_model pitts30k-test \\
        --image-size 322 --trust
    dinomix evaluate you/my-dino-mix my_city --csv > recall.csv
    dinomix evaluate megaloc sfxl-testv1 sfxl-testv2 sfxl-night sfxl-occlusion --store sfxl
    dinomix evaluate dinov2_vitb14_mix.ckpt msls-challenge --submission predictions.csv
    dinomix evaluate you/my-dino-mix my_city --per-query queries.csv
    """
    import pandas as pd

    from dinomix.datasets.benchmarks import BENCHMARKS, SUBMITTED, write_submission
    from dinomix.datasets.layouts import read_frames
    from dinomix.evaluation import judge, retrieve
    from dinomix.exchange.opening import open_model, open_testset
    from dinomix.retrieval import describe
    from dinomix.scale.descriptors import describe_to, images_hash, model_hash
    from dinomix.study.results import save_table

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other: give one")
    counts = _counts(ks)
    # all are opened before the first is measured: a wrong name should not cost an hour
    opened = [
        open_testset(test, None if test in BENCHMARKS else split, strict=not other_counts)
        if frames is None
        else read_frames(Path(test, "database"), Path(test, "queries"), frames)
        for test in tests
    ]
    hidden = [test.name for test in opened if not test.labelled]
    if (hidden or submission) and not (hidden and submission and len(opened) == 1):
        raise typer.BadParameter(
            "--submission FILE goes with one test set whose truth is not public, as msls-challenge "
            f"is, and such a set with it; of {len(opened)} named here, {len(hidden)} are such"
        )
    chosen = open_model(model, trust=trust, image_size=image_size)
    for_people = not (as_json or as_csv)
    if for_people:
        typer.echo(str(chosen), err=True)
    options = {"batch_size": batch_size, "workers": workers, "device": device}
    options |= {"on_error": "skip" if skip_damaged else "raise", "progress": for_people}
    options |= {"image_size": image_size}
    tables, queries, images = [], [], None
    for test in opened:
        if images != test.database:  # else it is that of the test set before
            images = test.database
            file = store and store / f"{model_hash(chosen, image_size)}-{images_hash(images)}.npy"
            describing = partial(describe_to, file) if file else describe
            database = describing(chosen, images, **options)
        if submission:
            found = retrieve(chosen, test, SUBMITTED, database=database, **options)
            write_submission(found, submission)
            return typer.echo(f"{submission}, to be sent to the challenge's server", err=True)
        table, found = judge(chosen, test, counts, interval=0.95, database=database, **options)
        tables.append(table)
        queries.append(found.queries())
        queries[-1].insert(0, "dataset", test.name)
        if for_people:
            _print_recall(test, table)
    table = pd.concat(tables, ignore_index=True)
    if as_csv:
        typer.echo(table.to_csv(index=False), nl=False)
    elif as_json:
        typer.echo(table.to_json(orient="records", double_precision=15))
    if per_query is not None:  # last: if it cannot be written, the recall is not lost
        save_table(pd.concat(queries), per_query)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="of one model, as evaluate --per-query wrote it")],
    after: Annotated[Path, typer.Argument(help="of another, on the same test sets")],
    k: Annotated[int, typer.Option(min=1, help="of recall@k")] = 1,
    as_json: Json = False,
) -> None:
    """Test whether two models differ by more than chance, on the same queries.

    Recall is the mean over conditions. The difference with its 95 % interval, and p: how often
    chance does as much, if groups of queries (places, drives) change hands. McNemar's p takes all
    queries for independent.

    \b
    dinomix compare mixvpr.csv dino_mix.csv
    dinomix compare mixvpr.csv dino_mix.csv --k 5 --json
    """
    import pandas as pd

    from dinomix.evaluation import MATCHES
    from dinomix.statistics import mcnemar, paired
    from dinomix.study.results import answers, read_queries

    files = {"before": read_queries(before), "after": read_queries(after)}
    if lonely := {*files["before"]["dataset"]} ^ {*files["after"]["dataset"]}:
        raise ValueError(f"only one of the files has {sorted(lonely)}: evaluate both on one set")
    both = pd.concat([table.assign(method=name) for name, table in files.items()])
    most = max(MATCHES, int(both["rank"].fillna(0).max()))
    if k > most:  # a query without a rank may have one further down
        raise typer.BadParameter(f"--k is {k}, and the files tell of {most} matches a query")
    rows = []
    for dataset, asked in both.groupby("dataset", sort=False):
        wide = answers(asked, k)
        pair = wide["before"], wide["after"]
        test = paired(*pair, wide["group"], weights=wide["weight"])
        recalls = [100 * (of * wide["weight"]).sum() / wide["weight"].sum() for of in pair]
        row = dict(zip(("dataset", "before", "after"), (dataset, *recalls), strict=True))
        row |= {name: 100 * getattr(test, name) for name in ("difference", "low", "high")}
        row |= {"p": test.p, "mcnemar_p": mcnemar(*pair)}
        rows.append(row | {"queries": len(wide), "groups": wide["group"].nunique()})
    if as_json:
        typer.echo(json.dumps(without_nan(rows)))
        return
    columns = [before.stem, after.stem, "difference", "p", "McNemar's p", "queries", "groups"]
    form = "{dataset}|{before:.1f}|{after:.1f}|{difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    form += "|{p:.4f}|{mcnemar_p:.4f}|{queries:,}|{groups:,}"
    cells = [form.format(**row).split("|") for row in rows]
    print_table(["test set", *columns], cells, f"Recall@{k}: {before} -> {after}", right=columns)


@app.command()
def models(as_json: Json = False) -> None:
    """List the published models that can be evaluated, with licences and sources.

    By name, such as "dinomix evaluate megaloc pitts30k-test": its file is downloaded once into the
    data folder, where its authors give a direct link. Those without a file are read by path.

    \b
    dinomix models
    dinomix models --json
    """
    from dinomix.exchange.published import published_models

    table = published_models()
    if as_json:
        typer.echo(table.to_json(orient="records"))
    else:
        table["source"] = table["source"].str.removeprefix("https://")  # shorter
        table["here"] = table["here"].map({"": ""}).fillna("yes")
        table = table.drop(columns=["method", "url", "sha256"])
        columns = [name.replace("_", " ") for name in table]
        print_table(columns, table.to_numpy(), "Published models")


def _counts(text: str) -> list[int]:
    try:
        counts = sorted({int(word) for word in text.split(",")})
    except ValueError:
        counts = [0]
    if counts[0] < 1:
        raise typer.BadParameter(f"--k is {text!r}: write whole numbers from 1 on, as 1,5,10")
    return counts


def _print_recall(test: "TestSet", table: "pd.DataFrame") -> None:
    ks, error = list(dict.fromkeys(table["k"])), table.attrs["median_error"]
    rows = []
    for condition, group in table.groupby("condition", sort=False):
        recall = dict(zip(group["k"], group["recall"], strict=True))
        first = group.iloc[0]
        numbers = [f"{recall[k]:.1f}" for k in ks]
        numbers[0] += f" [{first['low']:.1f}, {first['high']:.1f}]"
        numbers += [f"{error[condition]:.1f} m"] if error else []
        rows.append([condition, *numbers, f"{first['queries']:,}", f"{first.without_positives:,}"])
    title = f"{test.name}, {len(test.database):,} database images, positives: {test.convention}"
    size = table["image_size"].iloc[0]
    title += f", image size: {size}{' px' * (size != 'native')}"
    title += f", intervals over {len(set(test.groups)):,} groups of queries"
    columns = [f"R@{k}" for k in ks] + ["median error"] * bool(error)
    columns += ["queries", "without a positive"]
    print_table(["condition", *columns], rows, title=title, right=columns)
