"""A model's way to a folder or a repository of the Hugging Face hub, and back.

```
folder/model.safetensors   what the model's own `save` writes
folder/config.json         the fields of its config, and the version of dinomix
folder/README.md           the model card, from card.md.j2
```
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import HFValidationError

from dinomix.plumbing import __version__
from dinomix.plumbing.errors import HubError
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.settings import VERSION, read_fields

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
GENERATED = "<!-- Written by dinomix."  # while it stands in a card, saving writes the card again
METADATA = {
    "library_name": "dinomix",
    "pipeline_tag": "image-feature-extraction",
    "tags": [
        *("image-retrieval", "visual-place-recognition"),
        *("model_hub_mixin", "pytorch_model_hub_mixin"),  # by which the hub counts its users
    ],
}


class HubMixin(PyTorchModelHubMixin):
    """What lets a model go to the hub and come back; the mixin's own way is not strict.

    It asks for `config` (a `Config` with `to_dict`), `dim`, `save(path)`, `load(path)` and
    `card_facts()`. `save_pretrained(folder)` is huggingface_hub's; like `push_to_hub` it hands
    `model_card_kwargs={"run": run, "results": table}` on to `generate_model_card`.
    """

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory / WEIGHTS)
        fields = {**self.config.to_dict(), VERSION: __version__}
        with atomic_path(save_directory / CONFIG) as path:
            path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        card = save_directory / CARD
        if card.is_file() and GENERATED in card.read_text(encoding="utf-8", errors="replace"):
            card.unlink()  # the mixin writes one where there is none

    def generate_model_card(
        self, *, run: Any = None, results: Any = None, repo_id: str = "<user>/<name>"
    ) -> ModelCard:
        """The card of a model, with metadata that the hub understands.

        Args:
            run: the Run that trained it: adds the recipe and the recall on the validation set.
            results: from `dinomix.evaluate`, of one test set or several, concatenated.
            repo_id: for the lines that say how to load the model.

        Raises:
            ValueError: run or results are another model's; or the results lack a column, or hold
                two recalls for the same thing.
        """
        about, tables = self.card_facts(), {}
        if run is not None:
            if run.model_config != self.config:
                raise ValueError(
                    f"{run.folder} trained another model, {run.model_config}, not {self.config}"
                )
            names = ["epoch", "recall@1", "recall@5"]
            tables["best"] = [names, [_cell(run.best[name]) for name in names]]
            tables["recipe"] = _rows(run.train_config.identity(), "recipe", "value")
        if results is not None:
            tables["results"] = _recalls(results, self)
        return ModelCard.from_template(
            ModelCardData(license=about["licence"], **METADATA),
            template_path=str(Path(__file__).with_name("card.md.j2")),
            version=__version__,
            repo_id=repo_id,
            model=self,
            licence=about["licence"],
            input=_rows(about["input"]),
            facts=_rows(about["facts"]),
            fields=_rows(self.config.to_dict(), "config", "value"),
            **tables,
        )

    def push_to_hub(
        self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> str:
        """Upload what `save_pretrained` writes, in one commit; return the commit's address.

        `options` are the mixin's: commit_message, private, token, branch, create_pr, ...
        """
        details = {"repo_id": repo_id, **(model_card_kwargs or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=details, **options)

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
    ) -> Self:
        """The model that `save_pretrained` or `push_to_hub` wrote, on the CPU, to be evaluated.

        Only data is read: no code of the repository runs.

        Args:
            repo_or_folder: a folder where there is one of that name, else a repository of the hub.
            revision: branch, tag or commit; the others too are of `hf_hub_download`.

        Raises:
            FileNotFoundError: a folder lacks a file, or the name can be no repository's.
            HubError: the hub gives nothing, for example without a network.
            ValueError: a file is damaged, or the config is wrong or another than the weights'.
        """
        options = {"revision": revision, "token": token, "cache_dir": cache_dir}
        options |= {"force_download": force_download, "local_files_only": local_files_only}
        config, weights = (_find(repo_or_folder, name, options) for name in (CONFIG, WEIGHTS))
        fields = read_fields(config)
        fields.pop(VERSION, None)
        model = cls.load(weights)
        try:
            stated = type(model.config).from_dict(fields).to_dict()
        except ValueError as error:
            raise ValueError(f"{config}: {error}") from error
        carried = model.config.to_dict()
        if differing := [
            f"{key} is {stated.get(key)!r}, not {carried.get(key)!r}"
            for key in carried | stated  # options that are off may be left out
            if stated.get(key) != carried.get(key)
        ]:
            raise ValueError(
                f"{config} is not the config that {weights} carries: {', '.join(differing)}"
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


def _recalls(results: Any, model: Any) -> list[list[str]]:
    """A header, then a row for each test set and condition, a column for each k."""
    same = ["dataset", "convention", "condition", "queries", "without_positives"]
    lacking = [c for c in (*same, "k", "recall", "backbone", "dim") if c not in results]
    if lacking:
        raise ValueError(f"results lack the columns {lacking}: give what dinomix.evaluate returned")
    mine = (model.config.backbone, model.dim)
    measured = set(zip(results["backbone"], results["dim"], strict=True))
    if measured != {mine}:
        raise ValueError(
            f"results of {sorted(measured)} (backbone, dim) are not this model's: it is {mine}"
        )
    if results.duplicated([*same, "k"]).any():
        raise ValueError("results hold two recalls for the same test set and k: give one model's")
    ks = sorted(results["k"].unique())
    rows = [[*same, *(f"R@{k}" for k in ks)]]
    for key, group in results.groupby(same, sort=False):
        recalls = group.set_index("k")["recall"].reindex(ks)
        rows.append([_cell(value) for value in (*key, *recalls)])
    return rows


def _rows(named: Mapping[str, Any], *header: str) -> list[list[str]]:
    return [header or ("", ""), *([key, _cell(value)] for key, value in named.items())]


def _cell(value: Any) -> str:
    """A value as a Markdown table shows it, reals by up to five digits."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_cell(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)
