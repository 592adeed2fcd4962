"""What all views share: controls that call back, work in threads, pictures, errors that show."""

import base64
import html
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from io import BytesIO
from threading import Event, RLock, Thread
from typing import Any

import ipywidgets
from matplotlib.figure import Figure
from PIL.Image import Image

from dinomix.plumbing.workspace import UNSEEN

NOTHING = "nothing"  # an option of dropdowns
WIDE = {"description_width": "initial"}
Report = Callable[[str], None]
ONE_AT_A_TIME = RLock()  # pyplot is not made for several threads

# Sent along with each picture: arrow keys press Previous and Next of the view that has the focus or
# the pointer, where they mean nothing else. JupyterLab listens, too, and later than `window`.
_ARROWS = """window.dinomixArrows ??= window.addEventListener('keydown', e => {
  const name = {ArrowLeft: 'previous', ArrowRight: 'next'}[e.key], at = e.target;
  if (!name || e.altKey || e.ctrlKey || e.metaKey) return;
  if (at.closest('input, select, textarea, [contenteditable=true], [role=slider]')) return;
  const view = at.closest('.dinomix-view') || document.querySelector('.dinomix-view:hover');
  const button = view && view.querySelector('.dinomix-' + name);
  if (button) { button.click(); e.preventDefault(); e.stopImmediatePropagation(); }
}, true) || true"""


class Cancelled(Exception):
    """Nobody waits any more for what is being computed."""


class View(ipywidgets.VBox):
    """A column of CSS class `dinomix-<name>`: controls, beside them a message, and what is shown.

    The message is what a callback raises, which a kernel would hide in its log, or how far long
    work is. What is shown is hidden while it is not what the controls say.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_class("dinomix-view").add_class(f"dinomix-{name}")
        self.status, self.message = text("status"), text("message")
        self.cancel_button = ipywidgets.Button(layout={"display": "none"})  # or to try again
        self.shown = ipywidgets.VBox(layout={"overflow": "visible"})
        self._acting = False
        self._stopped, self._key = Event(), None  # of the work that is under way, if any
        self._again: Callable[[], None] | None = None
        self.watch(lambda: self._cancel() if self.working else self._again(), self.cancel_button)

    def compose(self, *controls: list[ipywidgets.Widget], shown: list) -> None:
        """Put rows of controls under each other, the message in the last, then what is shown: views
        of its own, or lists of what stands side by side.
        """

        def boxed(rows: Iterable, flow: str) -> list[ipywidgets.Widget]:
            free = {"flex_flow": flow, "overflow": "visible"}  # a box by itself has scroll bars
            return [ipywidgets.HBox(r, layout=free) if isinstance(r, list) else r for r in rows]

        controls[-1].extend([self.cancel_button, self.message])
        self.shown.children = boxed(shown, "row")
        self.children = [*boxed(controls, "row wrap"), self.shown]

    def watch(self, act: Callable[[], None], *controls: ipywidgets.Widget) -> None:
        """Call `act` whenever a user changes one of the controls, or clicks a button."""
        for control in controls:
            if isinstance(control, ipywidgets.Button):
                control.on_click(lambda _: self.attempt(act))
            else:
                control.observe(lambda _: self.attempt(act), "value")

    def attempt(self, act: Callable[[], None]) -> None:
        """Call `act`; say what it raises, and hide what is shown, until another call succeeds.

        Calls of several threads wait for each other. A call from within another one does nothing,
        so that a callback may set controls without being called back.
        """
        with ONE_AT_A_TIME:
            if self._acting:
                return
            self._acting = True
            failed = False
            try:
                act()
                if not self.working:
                    self._again, self.message.value = None, ""
            except Exception as error:  # any: nothing above could show it
                failed, words = True, html.escape(f"{type(error).__name__}: {error}")
                self.message.value = f'<div role="alert" style="color: #b00020">{words}</div>'
            finally:
                self._acting = False
            self.shown.layout.visibility = "hidden" if failed or self.working else None
            self.cancel_button.description = "Cancel" if self.working else "Try again"
            self.cancel_button.layout.display = "none" if self._again is None else None

    def compute(
        self, key: Any, work: Callable[[Report], Any], draw: Callable[[Any], None], now: bool
    ) -> None:
        """`draw(work(report))`, in a thread of its own unless it can be `now`, or nobody looks on.

        `report` says how far the work is, and ends it where nobody waits for it any more: only the
        newest draws. If that has the same key, it goes on.
        """
        if self.working and key == self._key:
            return
        self._stopped.set()
        if now or os.environ.get(UNSEEN):
            self._key = None
            return draw(work(lambda progress: None))
        self._key, self._stopped = key, Event()
        self._again, stopped = lambda: self.compute(key, work, draw, now), self._stopped

        def report(progress: str) -> None:
            with ONE_AT_A_TIME:
                if stopped.is_set():
                    raise Cancelled
                self.message.value = f'<div role="status">{html.escape(progress)}</div>'

        def run() -> None:
            done = Future()
            try:
                done.set_result(work(report))
            except Exception as error:
                done.set_exception(error)
            with ONE_AT_A_TIME:
                if not stopped.is_set():
                    self._key = None
                    self.attempt(lambda: draw(done.result()))

        Thread(target=run, name="dinomix view", daemon=True).start()

    @property
    def working(self) -> bool:
        """Whether a thread computes what is to be shown."""
        return self._key is not None

    def _cancel(self) -> None:
        self._stopped.set()
        self._key = None
        raise Cancelled("nothing is shown until something else is chosen")

    def close(self) -> None:
        self._stopped.set()
        super().close()

    def tell(self, words: str) -> None:
        """Say in words what the pictures show."""
        wrap = "overflow-wrap: anywhere; line-height: 1.5"  # file names are long
        self.status.value = f'<div aria-live="polite" style="{wrap}">{html.escape(words)}</div>'


def text(name: str) -> ipywidgets.HTML:
    """A line of text of CSS class `dinomix-<name>`."""
    line = ipywidgets.HTML()
    line.add_class(f"dinomix-{name}")
    return line


def picture(name: str) -> ipywidgets.HTML:
    """A place for a picture of CSS class `dinomix-<name>`, hidden until it is shown something."""
    place = ipywidgets.HTML()  # an ipywidgets.Image has no alternative text
    place.layout.align_self = "flex-start"  # boxes stretch what they hold
    place.layout.max_width = "100%"
    place.picture = f"dinomix-{name}"
    show(place, None)
    return place


def show(
    place: ipywidgets.HTML, content: Figure | Image | None, alt: str = "", caption: str = ""
) -> None:
    """Put a figure or an image into a `picture`, HTML below it; None hides it.

    `alt` is what it shows in words; for a figure, its titles or labels are.
    """
    if content is None:
        place.value, place.layout.display = "", "none"
        return
    buffer = BytesIO()
    if isinstance(content, Figure):
        content.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
        axes = (a.get_title() or f"{a.get_ylabel()} over {a.get_xlabel()}" for a in content.axes)
        alt = "; ".join(axes)
    else:
        content.save(buffer, format="png")
    png = base64.b64encode(buffer.getvalue()).decode()
    place.layout.display, alt, keys = None, html.escape(alt), html.escape(_ARROWS)
    place.value = (
        f'<img class="{place.picture}" src="data:image/png;base64,{png}" alt="{alt}" '
        f'style="display: block; max-width: 100%" onload="{keys}">'
        f'<div style="line-height: 1.5">{caption}</div>'
    )


def steps() -> list[ipywidgets.Button]:
    """Buttons for the query before and the next one, which the arrow keys press, too."""
    buttons = []
    for name, arrow in (("Previous", "arrow-left"), ("Next", "arrow-right")):
        buttons.append(ipywidgets.Button(description=name, icon=arrow, tooltip=f"key: {arrow}"))
        buttons[-1].add_class(f"dinomix-{name.lower()}")
    return buttons


def choice(label: str, options: list, **more) -> ipywidgets.Dropdown:
    """One of several options."""
    return ipywidgets.Dropdown(description=label, options=options, style=WIDE, **more)


def slider(label: str) -> ipywidgets.IntSlider:
    """From 1 to its `max`, as yet 1; it calls back when it is let go."""
    return ipywidgets.IntSlider(1, 1, 1, description=label, style=WIDE, continuous_update=False)


def offer(control: ipywidgets.Dropdown, options: list, chosen: Any = None) -> None:
    """Offer these values, or pairs of label and value; what is chosen stays so if it is among them.

    Where nothing is chosen yet, `chosen` is. The page hears of it in one message: between two, it
    would lose a user's choice of the option that seems to be chosen.
    """
    if list(control.options) == options:
        return
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    wanted = chosen if control.value is None else control.value
    with control.hold_sync():
        control.options = options
        control.value = wanted if wanted in values else next(iter(values), None)
