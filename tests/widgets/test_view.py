"""Callbacks of a view: who calls them, and what becomes of their errors."""

from io import BytesIO
from threading import Event, Thread

import ipywidgets
import matplotlib.pyplot as plt
import pytest
from PIL import Image

from dinomix.widgets.view import View, choice, offer, picture, set_range, show, slider


@pytest.fixture
def view():
    return View("test")


def test_controls_call_back(view):
    calls = []
    button, box = ipywidgets.Button(description="Go"), choice("Which", ["a", "b"])
    view.watch(lambda: calls.append("clicked"), button)
    view.watch(lambda: calls.append(box.value), box)
    button.click()
    box.value = "b"
    assert calls == ["clicked", "b"]


def test_errors_and_progress_show_as_text_and_go_when_all_is_well(view):
    def fail() -> None:
        raise ValueError("no place <b>there</b>")

    view.attempt(fail)
    assert 'role="alert"' in view.message.value
    assert "ValueError: no place &lt;b&gt;there&lt;/b&gt;" in view.message.value
    seen = []
    view.attempt(lambda: view.report("1 of 2 & more") or seen.append(view.message.value))
    assert "1 of 2 &amp; more" in seen[0] and view.message.value == ""


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


def test_pictures_hold_png_and_hide_when_there_is_nothing():
    image = picture("map")
    assert image.layout.display == "none" and "dinomix-map" in image._dom_classes
    show(image, Image.new("RGB", (5, 7), "red"))
    assert image.layout.display is None
    assert Image.open(BytesIO(image.value)).size == (5, 7)
    figure = plt.figure()
    plt.close(figure)
    show(image, figure)
    assert Image.open(BytesIO(image.value)).format == "PNG"
    show(image, None)
    assert image.layout.display == "none" and image.value == b""


def test_options_and_ranges_keep_the_value_where_they_can():
    box, number = choice("A", ["a", "b"], value="b"), slider("N", 5)
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
    number.value = 4
    set_range(number, 9)
    assert (number.value, number.max) == (4, 9)
    set_range(number, 0)
    assert (number.value, number.max) == (1, 1)


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
