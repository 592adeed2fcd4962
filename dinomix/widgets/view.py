"""What all views share: controls that call back, pictures, and errors that show."""

import html
from collections.abc import Callable
from io import BytesIO
from threading import RLock
from typing import Any

import ipywidgets
from matplotlib.figure import Figure
from PIL.Image import Image

NOTHING = "nothing"  # an option of dropdowns
WIDE = {"description_width": "initial"}
_ONE_AT_A_TIME = RLock()  # pyplot is not made for several threads


class View(ipywidgets.VBox):
    """A column, of CSS class `dinomix-<name>`: controls, words, pictures, and a message below them.

    Whatever a callback raises becomes the message: a kernel would hide it in its log.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_class(f"dinomix-{name}")
        self.status, self.message = text("status"), text("message")
        self._acting = False

    def compose(self, *rows: ipywidgets.Widget | list[ipywidgets.Widget]) -> None:
        """Put these under each other, the controls of a list side by side, the message last."""
        wrap = ipywidgets.Layout(flex_flow="row wrap")
        boxed = [
            ipywidgets.HBox(row, layout=wrap) if isinstance(row, list) else row for row in rows
        ]
        self.children = [*boxed, self.message]

    def watch(self, act: Callable[[], None], *controls: ipywidgets.Widget) -> None:
        """Call `act` whenever a user changes one of the controls, or clicks a button."""
        for control in controls:
            if isinstance(control, ipywidgets.Button):
                control.on_click(lambda _: self.attempt(act))
            else:
                control.observe(lambda _: self.attempt(act), "value")

    def attempt(self, act: Callable[[], None]) -> None:
        """Call `act`; say what it raises.

        Calls of several threads wait for each other, in whatever views. A call from within another
        one does nothing, so that a callback may set controls without being called back.
        """
        with _ONE_AT_A_TIME:
            if self._acting:
                return
            self._acting = True
            try:
                act()
                self.message.value = ""
            except Exception as error:  # any: there is nobody above who could show it
                words = html.escape(f"{type(error).__name__}: {error}")
                self.message.value = f'<div role="alert" style="color: #b00020">{words}</div>'
            finally:
                self._acting = False

    def tell(self, words: str) -> None:
        """Say in words what the pictures show."""
        self.status.value = f'<div aria-live="polite">{html.escape(words)}</div>'

    def report(self, progress: str) -> None:
        """Say how far a long callback is; the end of the callback clears it."""
        self.message.value = f'<div role="status">{html.escape(progress)}</div>'


def text(name: str) -> ipywidgets.HTML:
    """A line of text of CSS class `dinomix-<name>`."""
    line = ipywidgets.HTML()
    line.add_class(f"dinomix-{name}")
    return line


def picture(name: str) -> ipywidgets.Image:
    """A picture of CSS class `dinomix-<name>`, hidden until it is shown something."""
    image = ipywidgets.Image(format="png")  # one with a tooltip fails in the browser (8.1)
    image.layout.max_width = "100%"
    image.layout.align_self = "flex-start"  # boxes stretch what they hold
    image.add_class(f"dinomix-{name}")
    show(image, None)
    return image


def show(picture: ipywidgets.Image, content: Figure | Image | None) -> None:
    """Put a figure or an image into a picture, as PNG; None hides it."""
    buffer = BytesIO()
    if isinstance(content, Figure):
        content.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    elif content is not None:
        content.save(buffer, format="png")
    picture.value = buffer.getvalue()
    picture.layout.display = "none" if content is None else None


def choice(label: str, options: list, **more) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(description=label, options=options, style=WIDE, **more)


def slider(label: str, last: int = 1) -> ipywidgets.IntSlider:
    """From 1 to `last`, see `set_range`; it calls back when it is let go."""
    return ipywidgets.IntSlider(1, 1, last, description=label, style=WIDE, continuous_update=False)


def number(label: str) -> ipywidgets.BoundedIntText:
    """A number from 1 to 1, see `set_range`, that can be typed."""
    field = ipywidgets.BoundedIntText(1, min=1, max=1, description=label, style=WIDE)
    field.layout.width = "10em"
    return field


def set_range(control: ipywidgets.IntSlider | ipywidgets.BoundedIntText, last: int) -> None:
    """Let a number run from 1 to `last`, at least 1; it keeps its value where it can."""
    control.max = max(1, last)


def offer(control: ipywidgets.Dropdown, options: list, chosen: Any = None) -> None:
    """Offer these values, or pairs of label and value; what is chosen stays so if it is among them.

    Where nothing is chosen yet, `chosen` is. The page hears of it in one message. It would else see
    another option chosen for a moment, take a user's choice of just this one for no change, and
    lose it.
    """
    if list(control.options) == options:
        return
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    wanted = chosen if control.value is None else control.value
    with control.hold_sync():
        control.options = options
        control.value = wanted if wanted in values else next(iter(values), None)
