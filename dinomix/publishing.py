"""Publishing: a folder, or a repository on the hub, of a model's weights, config and card.

```
folder/model.safetensors   as `dinomix.save_model` writes it, so that `dinomix.load_model` reads it
folder/config.json         the fields of ModelConfig, and the version of dinomix
folder/README.md           the model card, see `dinomix.modelcard`
```
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import HFValidationError

from dinomix import __version__
from dinomix.configfiles import LARGEST, VERSION
from dinomix.errors import HubError
from dinomix.modelcard import GENERATED, model_card
from dinomix.storage import atomic_path

if TYPE_CHECKING:
    from dinomix.model import ModelConfig, PlaceModel

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


class Publishable(PyTorchModelHubMixin):
    """What lets a PlaceModel go to the hub and come back.

    `save_pretrained(folder)` and `push_to_hub(repo_id)` are huggingface_hub's own; both hand
    `model_card_kwargs={"run": run, "results": table}` on to `dinomix.modelcard.model_card`.
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
        """See `dinomix.modelcard.model_card`."""
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
