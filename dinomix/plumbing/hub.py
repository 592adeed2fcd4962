"""Publishing: a folder, or a repository on the hub, of a model's weights, config and card.

```
folder/model.safetensors   as `dinomix.save_model` writes it, so that `dinomix.load_model` reads it
folder/config.json         the fields of ModelConfig, and the version of dinomix
folder/README.md           the model card, see `dinomix.plumbing.hub`
```
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import HFValidationError

from dinomix import __version__
from dinomix.backbones import TOY, normalization
from dinomix.backbones.names import timm_name
from dinomix.plumbing.errors import HubError
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.settings import LARGEST, VERSION
from dinomix.plumbing.summary import count_parameters

if TYPE_CHECKING:
    import pandas as pd

    from dinomix.model import ModelConfig, PlaceModel
    from dinomix.runs.run import Run


WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


class Publishable(PyTorchModelHubMixin):
    """What lets a PlaceModel go to the hub and come back.

    `save_pretrained(folder)` and `push_to_hub(repo_id)` are huggingface_hub's own; both hand
    `model_card_kwargs={"run": run, "results": table}` on to `dinomix.plumbing.hub.model_card`.
    A model comes back strictly: the mixin would drop what it does not know in a config.
    """

    def _save_pretrained(self, save_directory: Path) -> None:
        from dinomix.model import save_model  # a PlaceModel is one of these

        save_model(self, save_directory / WEIGHTS)
        fields = {**self.config.to_dict(), VERSION: __version__}
        with atomic_path(save_directory / CONFIG) as path:
            path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        card = save_directory / CARD
        if card.is_file() and GENERATED in card.read_text(encoding="utf-8", errors="replace"):
            card.unlink()  # the mixin writes one where there is none

    def generate_model_card(self, **told: Any) -> ModelCard:
        """See `dinomix.plumbing.hub.model_card`."""
        return model_card(self, **told)

    def push_to_hub(
        self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> str:
        """Upload what `save_pretrained` writes, in one commit; return the commit's address.

        Args:
            repo_id: "user/name"; made if it is not there.
            options: of the mixin: commit_message, private, token, branch, create_pr, ...
        """
        told = {"repo_id": repo_id, **(model_card_kwargs or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=told, **options)

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> "PlaceModel":
        """The model that `save_pretrained` or `push_to_hub` wrote, on the CPU, to be evaluated.

        Only data is read: no code of the repository runs.

        Args:
            repo_or_folder: a folder where there is one of that name, else a repository of the hub.
            revision: branch, tag or commit; the others too are of `hf_hub_download`.

        Raises:
            FileNotFoundError: if a folder lacks a file, or the name can be no repository's.
            HubError: if the hub gives nothing, for example without a network.
            ValueError: if a file is damaged, the config has unknown fields or wrong values, or
                the tensors do not fit it.
        """
        from dinomix.model import load_model

        options = {
            "revision": revision,
            "token": token,
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
        }
        config_path, weights = (_find(repo_or_folder, name, options) for name in (CONFIG, WEIGHTS))
        stated = _read_config(config_path).to_dict()
        model = load_model(weights)
        carried = model.config.to_dict()
        differing = [
            f"{key} is {stated[key]!r}, not {carried[key]!r}"
            for key in carried
            if stated[key] != carried[key]
        ]
        if differing:
            raise ValueError(
                f"{config_path} is not the config that {weights} carries: {', '.join(differing)}"
            )
        return model


def _find(repo_or_folder: str | Path, name: str, options: dict[str, Any]) -> Path:
    folder = Path(repo_or_folder)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}: it was not written by save_pretrained, or not to the "
                "end; save the model again"
            )
        return folder / name
    try:
        return Path(hf_hub_download(str(repo_or_folder), name, **options))
    except HFValidationError as error:
        raise FileNotFoundError(
            f"there is no folder {repo_or_folder}, and no repository can have that name: {error}"
        ) from error
    except Exception as error:  # the hub's client has many errors of its own
        raise HubError(
            f"there is no folder {repo_or_folder}, and the hub gave no {name} of a repository of "
            f"that name ({error})"
        ) from error


def _read_config(path: Path) -> "ModelConfig":
    from dinomix.model import ModelConfig

    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError(f"it holds {fields!r} instead of named fields")
        fields.pop(VERSION, None)
        return ModelConfig.from_dict(fields)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no config that can be used here: {error}") from error


# The model card: what somebody who finds a published model has to know to use and to trust it.
TAGS = ["visual-place-recognition", "image-retrieval"]
MIXIN_TAGS = ["model_hub_mixin", "pytorch_model_hub_mixin"]  # by which the hub counts its users
# While this stands in a card, saving the model again writes the card again.
GENERATED = "<!-- Written by dinomix. Without this line the card is yours, and stays as it is. -->"

CITATION = """\
```bibtex
@article{dinomix2024,
  author  = {Huang, Gaoshuang and others},
  title   = {{DINO-Mix} enhancing visual place recognition with foundational vision model
             and feature mixing},
  journal = {Scientific Reports},
  volume  = {14},
  number  = {22100},
  year    = {2024},
  doi     = {10.1038/s41598-024-73853-3}
}
```"""


def model_card(
    model: "PlaceModel",
    *,
    run: "Run | None" = None,
    results: "pd.DataFrame | None" = None,
    repo_id: str = "<user>/<name>",
) -> ModelCard:
    """The card of a model, with metadata that the hub understands.

    Args:
        run: that trained it: adds the recipe and the recall on the validation set.
        results: measured on test sets, from `dinomix.evaluate`; the tables of several test sets
            may be concatenated.
        repo_id: the repository's name on the hub, for the lines that say how to load the model.

    Raises:
        ValueError: if the run trained another model, or the results are another model's, lack a
            column, or hold two recalls for the same thing.
    """
    config, licence = model.config, licence_of(model.config.backbone)
    metadata = ModelCardData(
        library_name="dinomix",
        license=licence,
        pipeline_tag="image-feature-extraction",
        tags=sorted([*TAGS, *MIXIN_TAGS]),
    )
    sections = {
        f"# Visual place recognition: {config.backbone} + {config.aggregator}": (
            f"A photo becomes a descriptor of {model.dim} entries and unit length; photos of the "
            "same place have similar descriptors, so that their nearest neighbours in a database "
            "of photos with known positions tell where a photo was taken.\n\n"
            f"Written by dinomix {__version__}."
        ),
        "## Use": _usage(repo_id),
        "## Input": _table(("", ""), expected_input(config).items()),
        "## Model": _model(model),
    }
    if run is not None:
        sections["## Training"] = _training(run, config)
    if results is not None:
        sections["## Results"] = _results(results, model)
    sections["## Licence"] = (
        "The code is under the MIT licence. Weights that began as somebody's pretrained backbone "
        f"stay under its licence, too: for {config.backbone} that is {licence or 'not known here'}."
    )
    sections["## Citation"] = (
        "dinomix implements this paper, and other aggregators beside its mixer: if this model has "
        f"one of those, please cite its paper, too.\n\n{CITATION}"
    )
    body = "\n\n".join(f"{title}\n\n{text}" for title, text in sections.items())
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{GENERATED}\n\n{body}\n")


def expected_input(config: "ModelConfig") -> dict[str, Any]:
    """How an image becomes what the model takes, in literals for people and for other programs."""
    mean, std = normalization(config.backbone)
    return {
        "shape": ["batch", 3, *config.size],
        "resize": "the whole image to (height, width), bilinear, antialiased, aspect not kept",
        "channels": "RGB",
        "range": "0 to 1, then (x - mean) / std",
        "mean": list(mean),
        "std": list(std),
    }


def licence_of(backbone: str) -> str | None:
    """The licence of a backbone's pretrained weights, as the hub abbreviates it; None: unknown."""
    if backbone in TOY:
        return "mit"  # they are this project's own
    return timm.get_pretrained_cfg(timm_name(backbone)).license


def _usage(repo_id: str) -> str:
    return f"""\
```python
from dinomix import PlaceModel
from dinomix.retrieval import load_images

model = PlaceModel.from_pretrained("{repo_id}")
images = load_images(model, ["photo.jpg"])  # (B, 3, H, W), resized and normalised
descriptors = model(images)  # (B, D)
```

Without installing dinomix, from its repository or (`source="local"`) from a checkout of it:

```python
model = torch.hub.load("<owner>/dinomix", "dino_mix", pretrained="{repo_id}")
```"""


def _model(model: "PlaceModel") -> str:
    parameters, trained = count_parameters(model)
    facts = {
        "descriptor": f"{model.dim} entries, float32, unit length",
        "parameters": f"{parameters:,}",
        "trained": f"{trained:,}",
    }
    fields = model.config.to_dict().items()
    return f"{_table(('', ''), facts.items())}\n\n{_table(('config', 'value'), fields)}"


def _training(run: "Run", config: "ModelConfig") -> str:
    if run.model_config != config:
        raise ValueError(f"{run.folder} trained another model, {run.model_config}, not {config}")
    best = run.best
    recalls = {"epoch": int(best["epoch"])} | {k: best[k] for k in ("recall@1", "recall@5")}
    return (
        f"The best epoch on the validation set, recall in percent:\n\n"
        f"{_table(recalls, [recalls.values()])}\n\n"
        f"{_table(('recipe', 'value'), run.train_config.identity().items())}"
    )


def _results(results: "pd.DataFrame", model: "PlaceModel") -> str:
    same = ["dataset", "convention", "condition", "queries", "without_positives"]
    lacking = [c for c in (*same, "k", "recall", "backbone", "dim") if c not in results]
    if lacking:
        raise ValueError(f"results lack the columns {lacking}: give what dinomix.evaluate returned")
    measured = {(row.backbone, row.dim) for row in results.itertuples()}
    if measured != {(model.config.backbone, model.dim)}:
        raise ValueError(
            f"results of {sorted(measured)} (backbone, dim) are not this model's: it is "
            f"{(model.config.backbone, model.dim)}"
        )
    if results.duplicated([*same, "k"]).any():
        raise ValueError("results hold two recalls for the same test set and k: give one model's")
    ks = sorted(results["k"].unique())
    rows = []
    for key, group in results.groupby(same, sort=False):
        recall = dict(zip(group["k"], group["recall"], strict=True))
        rows.append([*key, *(recall.get(k, float("nan")) for k in ks)])
    return (
        "Recall at k in percent. A query is right if one of its k nearest database images is a "
        "positive by the convention; queries without any positive count as failures.\n\n"
        f"{_table((*same, *(f'R@{k}' for k in ks)), rows)}"
    )


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown, recalls and other reals of up to five digits."""
    lines = [list(header), None, *rows]
    shown = [["---"] * len(lines[0]) if line is None else map(_cell, line) for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_cell(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)
