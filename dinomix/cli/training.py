"""Training: of models, and of the stand-in backbones."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dinomix.cli.app import MODELS, Json, Overrides, app, print_table

if TYPE_CHECKING:
    from dinomix.data import TestSet
    from dinomix.model import ModelConfig, PlaceModel

MOST = 2**32  # bytes of descriptors that a comparison at the end may take


@app.command()
def train(
    places: Annotated[Path, typer.Argument(help="training places, in GSV-Cities' layout")],
    val: Annotated[
        list[str] | None,
        typer.Option(help="UTM folder (split val) or benchmark; of several, the mean chooses"),
    ] = None,
    hold_out: Annotated[float | None, typer.Option(help="validate on this share of places")] = None,
    crops: Annotated[
        bool, typer.Option("--crops", help="hold out parts of images, as another viewpoint has it")
    ] = False,
    also: Annotated[
        list[str] | None, typer.Option(help="test sets to compare on at the end, and not to choose")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="dino_mix (default), salad, ...; a wrong name lists all")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML or JSON: fields that win over the preset's")
    ] = None,
    recipe: Annotated[str, typer.Option(help="paper, authors, toy, small or robust")] = "paper",
    overrides: Overrides = "",
    weights: Annotated[str | None, typer.Option(help="hub (default), random, or a file")] = None,
    start: Annotated[str | None, typer.Option(help=f"go on from a model: {MODELS}")] = None,
    images_per_place: Annotated[int, typer.Option(help="K, at least 2")] = 4,
    out: Annotated[Path | None, typer.Option(help="default: runs in the data folder")] = None,
    as_json: Json = False,
) -> None:
    """Train a model; print its folder, its best epoch, and what its backbone knew untrained.

    Asked again, a finished run is loaded. One that was killed goes on after its last whole epoch.
    Asked for more epochs, a finished one goes on, too, unless its schedule is cosine.

    \b
    dinomix train data/toycity/train --val data/toycity \\
        --preset dino_mix_toy --recipe toy
    dinomix train data/gsv-cities --val pitts30k-val \\
        --preset dino_mix_authors --recipe authors
    dinomix train my_places --hold-out 0.2 --crops --also my_city --preset small \\
        --recipe small --images-per-place 2
    dinomix train my_places --val my_city --config model.yaml --recipe toy --set "epochs=2"
    dinomix train my_places --hold-out 0.2 --start published.ckpt --set "lr=1e-3"
    """
    from dinomix.data import PlaceDataset
    from dinomix.exchange.foreign import HUB
    from dinomix.exchange.opening import open_model, open_testset
    from dinomix.localization import what_a_backbone_knows
    from dinomix.plumbing.settings import parse_overrides
    from dinomix.plumbing.workspace import data_root
    from dinomix.runs.train import train
    from dinomix.training import TrainConfig

    if bool(val) == (hold_out is not None):
        raise typer.BadParameter("give one of the two: --val SET or --hold-out SHARE")
    if crops and hold_out is None:
        raise typer.BadParameter("--crops goes with --hold-out, of whose images parts are cut")
    if start is not None and weights is not None:
        raise typer.BadParameter("give one of the two: --weights or --start, which has all weights")
    if (start or "").startswith(HUB):
        raise typer.BadParameter(f"--start {start}: a foreign model cannot be trained here")
    begun = None if start is None else open_model(start)
    chosen = model_config(preset or (begun.config if begun else "dino_mix"), config)
    train_config = TrainConfig.preset(recipe, **parse_overrides(overrides))
    dataset = PlaceDataset(places, images_per_place=images_per_place)
    if hold_out is not None:
        folder = data_root() / "crops" / dataset.fingerprint if crops else None
        dataset, held_out = dataset.hold_out(hold_out, crops=folder)
    sets = [
        open_testset(name, "val" if Path(name, "images", "val").is_dir() else None)
        for name in val or ()
    ]
    sets = sets or [held_out]
    others = [open_testset(name) for name in also or ()]  # before hours of training
    if not as_json:
        typer.echo("\n".join(map(repr, [dataset, *sets])), err=True)
    initial = None if begun or weights == "random" else weights or "hub"
    options = {"weights": initial, "start": begun, "out": out, "progress": not as_json}
    run = train(chosen, dataset, sets if len(sets) > 1 else sets[0], train_config, **options)
    if int(os.environ.get("RANK", 0)):  # torchrun's other processes have the same to say
        return
    best = {key: run.best[key] for key in ("recall@1", "recall@5")}
    epoch, epochs = int(run.best["epoch"]), len(run.history) - 1
    if as_json:
        report = {"run": str(run.folder), "epoch": epoch, "epochs": epochs, **best}
        report |= {"validation": ", ".join(each.name for each in sets)}
        typer.echo(json.dumps(report | {"convention": ", ".join(each.convention for each in sets)}))
        return
    recalls = ", ".join(f"{key} {value:.1f} %" for key, value in best.items())
    where = " and ".join(f"{each.name} ({each.convention})" for each in sets)
    typer.echo(f"{run.folder}\nbest epoch {epoch} of {epochs}: {recalls} on {where}")
    rivals = what_a_backbone_knows(chosen, dataset, initial, begun)
    models = {"trained": run.load(), **rivals}
    cells = [
        [test.name, *(_recall(model, test) for model in models.values())]
        for test in (*sets, *others)  # of which two may have one name
    ]
    print_table(["test set", *models], cells, "Recall@1 in percent", right=list(models))


def _recall(model: "PlaceModel", test: "TestSet") -> str:
    from dinomix.evaluation import evaluate

    if (size := 4 * model.dim * (len(test.database) + len(test.queries))) > MOST:
        return f"would take {size / 2**30:.0f} GiB"
    return f"{evaluate(model, test, [1], progress=False)['recall'].iloc[-1]:.1f}"


def model_config(preset: "str | ModelConfig", path: Path | None = None) -> "ModelConfig":
    """A preset or a config, with the fields in a file instead; `config.json` of a model will do."""
    from dinomix.model import PRESETS, ModelConfig
    from dinomix.plumbing.errors import named
    from dinomix.plumbing.settings import VERSION, read_fields

    base = preset if isinstance(preset, ModelConfig) else named(PRESETS, preset, "preset")
    fields = {} if path is None else read_fields(path)
    fields.pop(VERSION, None)
    try:
        return ModelConfig.from_dict({**base.to_dict(), **fields})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@app.command()
def pretrain(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="BACKBONE", help="default: all stand-ins")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="default: the package's own folder")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="default: each backbone's own")] = None,
    cameras: Annotated[int | None, typer.Option(min=1, help="places to learn from")] = None,
) -> None:
    """Pretrain the stand-in backbones again, on rendered streets without labels.

    The whole takes days on a CPU, minutes on a GPU. Killed, the same command goes on.

    \b
    dinomix pretrain
    dinomix pretrain toy_vits14 --epochs 2 --cameras 100 --out /tmp/weights
    """
    from dinomix.standins.pretrain import TOY_WEIGHTS, pretrain_files

    changes = {"epochs": epochs, "cameras": cameras}
    changes = {name: value for name, value in changes.items() if value is not None}
    if changes and out is None:
        raise typer.BadParameter("--epochs and --cameras need --out: the package keeps whole ones")
    for path in pretrain_files(names, out or TOY_WEIGHTS, **changes):
        typer.echo(path)
