"""How papermill runs our notebooks: the progress bar that moves inside of one is passed on."""

import html
import os
from collections.abc import Mapping
from typing import Any

import traitlets
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from dinomix.plumbing.workspace import UNSEEN

ENGINE = "dinomix"
TQDM = ["HTMLModel", "FloatProgressModel", "HTMLModel"]  # the parts of its bar in a notebook


class _Client(PapermillNotebookClient):
    show = traitlets.Callable()

    def process_message(self, msg: Mapping[str, Any], *args: Any) -> Any:
        """As papermill's; the bar that moved last, mostly the innermost one, is shown."""
        output = super().process_message(msg, *args)
        if msg["msg_type"] == "comm_msg" and (text := self._bar(msg["content"]["comm_id"])):
            self.show(text)
        return output

    def _bar(self, widget: str) -> str:
        """What stands on both sides of the bar of which the widget is a part."""
        for box in self.widget_state.values():
            names = [name.removeprefix("IPY_MODEL_") for name in box.get("children", ())]
            parts = [self.widget_state.get(name, {}) for name in names if widget in names]
            if [part.get("_model_name") for part in parts] == TQDM:
                text = html.unescape(f"{parts[0].get('value', '')} {parts[2].get('value', '')}")
                return text.replace("\u2007", " ").strip()  # of the width of a digit
        return ""


class _Engine(NBClientEngine):
    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, start_timeout: int, **options: Any
    ) -> None:
        """As papermill's; its options go to the client, where that has a trait of their name."""
        options = {name: value for name, value in options.items() if hasattr(_Client, name)}
        options |= {"startup_timeout": start_timeout, "timeout": None}
        _Client(nb_man, kernel_name=kernel_name, **options).execute(env=os.environ | {UNSEEN: "1"})


papermill_engines.register(ENGINE, _Engine)
