"""Callbacks of a view: who calls them, and what becomes of their errors."""

from base64 import b64decode
from io import BytesIO
from threading import Event, Thread
from threading import enumerate as enumerate_threads

import ipywidgets
import matplotlib.pyplot as plt
import pytest
from PIL import Image

from dinomix.plumbing.workspace import UNSEEN
from dinomix.widgets.view import View, choice, offer, picture, show


def settle(view: View) -> View:
    """The view, when no thread works for one any more."""
    while working := [thread for thread in enumerate_threads() if thread.name == "dinomix view"]:
        working[0].join(60)
        assert not working[0].is_alive(), "a view works for ever"
    return view


@pytest.fixture
def view():
    view = View("test")
    view.compose([], shown=[view.status])
    return view


def test_controls_call_back(view):
    calls = []
    button, box = ipywidgets.Button(description="Go"), choice("Which", ["a", "b"])
    view.watch(lambda: calls.append("clicked"), button)
    view.watch(lambda: calls.append(box.value), box)
    button.click()
    box.value = "b"
    assert calls == ["clicked", "b"]


def test_errors_show_as_text_hide_what_is_shown_and_go_when_all_is_well(view):
    def fail() -> None:
        raise ValueError("no place <b>there</b>")

    view.attempt(fail)
    assert 'role="alert"' in view.message.value
    assert "ValueError: no place &lt;b&gt;there&lt;/b&gt;" in view.message.value
    assert view.shown.layout.visibility == "hidden" and view.cancel_button.layout.display == "none"
    view.attempt(lambda: None)
    assert view.message.value == "" and view.shown.layout.visibility is None


def test_controls_that_a_callback_sets_do_not_call_back(view):
    box, other = choice("A", ["a", "b"]), choice("B", ["a", "b"])
    calls = []

    def follow() -> None:
        calls.append(box.value)
        other.value = box.value

    view.watch(follow, box)
    view.watch(lambda: calls.append("other"), other)
    box.value = "b"
    assert calls == ["b"] and other.value == "b"


def test_callbacks_of_another_thread_wait_and_are_not_lost(view):
    begun, go_on, order = Event(), Event(), []

    def slow() -> None:
        begun.set()
        go_on.wait(10)
        order.append("slow")

    threads = [Thread(target=view.attempt, args=[slow])]
    threads[0].start()
    begun.wait(10)
    other = View("other")  # the lock is all views' own, since pyplot is
    threads.append(Thread(target=other.attempt, args=[lambda: order.append("fast")]))
    threads[1].start()
    threads[1].join(0.2)
    assert order == []
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert order == ["slow", "fast"]


class Work:
    """Work of a view that a test lets go on; what is drawn of it is its name."""

    def __init__(self, view: View, name: str, now: bool = False) -> None:
        self.begun, self.go_on, self.ended = Event(), Event(), Event()
        view.attempt(lambda: view.compute(name, self.work, lambda drawn: view.tell(drawn), now))
        self.name = name

    def work(self, report) -> str:
        report("1 of 2 & more")
        self.begun.set()
        try:
            self.go_on.wait(10)
            report("2 of 2")
            if self.name == "broken":
                raise OSError("no weights")
        finally:
            self.ended.set()
        return self.name


def test_long_work_hides_what_is_shown_says_how_far_it_is_and_draws(view):
    view.tell("old")
    work = Work(view, "new")
    assert view.shown.layout.visibility == "hidden" and view.working
    assert view.cancel_button.layout.display is None
    assert work.begun.wait(10) and "1 of 2 &amp; more" in view.message.value
    view.attempt(lambda: None)  # another control, meanwhile
    assert "1 of 2" in view.message.value and view.shown.layout.visibility == "hidden"
    work.go_on.set()
    settle(view)
    assert "new" in view.status.value and view.message.value == ""
    assert view.shown.layout.visibility is None and view.cancel_button.layout.display == "none"


def test_where_nobody_looks_on_a_view_draws_at_once(view, monkeypatch):
    monkeypatch.setenv(UNSEEN, "1")
    view.attempt(lambda: view.compute("key", lambda report: "drawn", view.tell, now=False))
    assert "drawn" in view.status.value and not view.working


def test_only_the_newest_draws(view):
    first = Work(view, "first")
    assert first.begun.wait(10)
    second = Work(view, "second")
    first.go_on.set()
    assert first.ended.wait(10) and second.begun.wait(10)
    assert view.working and "1 of 2" in view.message.value  # nothing of the first one
    again = Work(view, "second")  # goes on with what runs
    second.go_on.set()
    settle(view)
    assert "second" in view.status.value and not again.begun.is_set()
    third = Work(view, "third")
    assert third.begun.wait(10)
    view.attempt(lambda: view.compute("known", lambda report: "known", view.tell, True))
    third.go_on.set()
    assert third.ended.wait(10) and not view.working and "known" in view.status.value


def test_cancelled_and_broken_work_shows_nothing_and_can_be_tried_again(view):
    work = Work(view, "long")
    assert work.begun.wait(10)
    view.cancel_button.click()
    assert "Cancelled" in view.message.value and view.shown.layout.visibility == "hidden"
    work.go_on.set()
    assert work.ended.wait(10)
    assert "Cancelled" in view.message.value and view.shown.layout.visibility == "hidden"
    view.cancel_button.click()
    settle(view)
    assert "long" in view.status.value and view.shown.layout.visibility is None
    assert view.cancel_button.layout.display == "none"
    Work(view, "broken").go_on.set()
    settle(view)
    assert "OSError: no weights" in view.message.value and view.shown.layout.visibility == "hidden"
    assert view.cancel_button.description == "Try again"


def test_pictures_hold_png_and_words_and_hide_when_there_is_nothing():
    image = picture("map")

    def pixels() -> Image.Image:
        return Image.open(BytesIO(b64decode(image.value.split("base64,")[1].split('"')[0])))

    assert image.layout.display == "none"
    show(image, Image.new("RGB", (5, 7), "red"), 'a "red" one')
    assert image.layout.display is None and 'class="dinomix-map"' in image.value
    assert pixels().size == (5, 7) and 'alt="a &quot;red&quot; one"' in image.value
    figure = plt.figure()
    plt.close(figure)
    show(image, figure)
    assert pixels().format == "PNG"
    show(image, None)
    assert image.layout.display == "none" and image.value == ""


def test_options_keep_the_value_where_they_can():
    box = choice("A", ["a", "b"], value="b")
    offer(box, ["c", "b"])
    assert box.value == "b" and box.options == ("c", "b")
    offer(box, ["c", "d"])
    assert box.value == "c"
    offer(box, [])
    assert box.value is None
    offer(box, [("a", 1), ("b", 2)], chosen=2)
    assert box.value == 2
    offer(box, [("a", 1)], chosen=2)
    assert box.value == 1


def test_the_page_hears_of_new_options_and_the_choice_at_once(monkeypatch):
    told = []
    monkeypatch.setattr(
        ipywidgets.Dropdown, "_send", lambda box, told_now, **_: told.append(told_now)
    )
    box = choice("A", [("first", 1), ("second", 2)], value=2)
    told.clear()
    offer(box, [("new", 3), ("first", 1), ("second", 2)])
    (message,) = told
    assert message["state"] == {"_options_labels": ("new", "first", "second"), "index": 2}
    offer(box, [("new", 3), ("first", 1), ("second", 2)])
    assert len(told) == 1
