"""The patch that is asked about, by sliders and by clicks, for methods with other grids."""

from threading import Event

import numpy as np
import pytest

from dinomix import TestSet
from dinomix.evaluation import Retrieval
from dinomix.model import ModelConfig, build_model
from dinomix.widgets import patch_explorer, retrieval_browser
from dinomix.widgets.browser import EVERY
from dinomix.widgets.explorer import NOTHING
from tests.widgets.test_view import settle


@pytest.fixture
def view(test_root):
    """A transformer with 2 x 2 patches and 12 blocks; a CNN with another grid and one map."""
    vit = ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8)
    cnn = ModelConfig(backbone="timm/resnet10t", image_size=96, stage=3, out_channels=8)
    models = {"ViT": build_model(vit, weights="hub"), "CNN": lambda: build_model(cnn)}
    view = settle(patch_explorer([TestSet(test_root)], models, k=3))
    assert view.beside.value == "CNN" and len(shown(view)) == 3
    view.beside.value = NOTHING
    return settle(view)


def click(view, down: float, right: float) -> None:
    """What the browser sends for a click on the query's picture, 200 x 400 pixels on the screen."""
    event = {"relativeX": right * 200, "relativeY": down * 400}
    size = {"boundingRectWidth": 200, "boundingRectHeight": 400}
    view.clicks._dom_handlers({**event, **size, "type": "click"})


def shown(view) -> list[str]:
    """The query and what stands beside it."""
    places = [view.query, *settle(view).heats]
    return [place.value for place in places if place.layout.display is None]


def captions(view) -> list[str]:
    return [heat.split("<div")[1] for heat in shown(view)[1:]]


def test_begins_in_the_middle_with_the_last_block(view):
    assert view.message.value == "" and all(shown(view)) and len(shown(view)) == 2
    assert (view.row.value, view.row.max, view.block.value, view.block.max) == (2, 2, 12, 12)
    assert view.rank.max == 3 and view.number.max == 10
    assert "row 2, column 2" in view.status.value
    (caption,) = captions(view)
    assert "<b>ViT</b>" in caption and "block 12 of 12" in caption


def test_a_click_and_sliders_ask_for_a_patch(view):
    before = shown(view)
    click(view, down=0.2, right=0.9)
    assert (view.row.value, view.column.value) == (1, 2)
    assert "row 1, column 2" in view.status.value
    clicked = shown(view)
    assert clicked[0] != before[0] and clicked[1] != before[1]
    view.row.value = 2
    assert shown(view) != clicked and "row 2, column 2" in view.status.value
    view.row.value = 1
    assert shown(view) == clicked


def test_block_rank_and_query_choose_the_pictures(view):
    query, last = shown(view)
    view.block.value = 3
    heat = shown(view)[1]
    assert heat != last and "block 3 of 12" in captions(view)[0]
    view.rank.value = 2
    assert shown(view)[1] != heat
    view.number.value = 4
    assert shown(view)[0] != query and "query 4" in view.status.value


def test_methods_side_by_side_have_grids_of_their_own(view):
    view.beside.value = "CNN"
    assert len(shown(view)) == 3 and all(shown(view)) and view.message.value == ""
    assert "block 1 of 1" in captions(view)[1] and view.block.max == 12
    view.method.value = "CNN"
    settle(view)
    assert (view.row.max, view.block.max, view.block.value) == (6, 1, 1)
    assert (view.row.value, view.column.value) == (4, 4)  # the same spot on a finer grid
    view.method.value = "ViT"
    settle(view)
    assert (view.block.max, view.block.value) == (12, 12)
    view.beside.value = NOTHING
    assert len(shown(view)) == 2


def test_a_retrieval_without_a_model_is_an_error_in_the_view(test_root):
    test = TestSet(test_root)
    found = Retrieval(test, np.zeros((10, 2), int), np.ones((10, 2), np.float32), [[]] * 10)
    view = settle(patch_explorer([test], {"a": found}))
    assert "patches take its model" in view.message.value


def test_an_explorer_waits_for_a_browser_that_still_works(test_root):
    model = build_model(ModelConfig("toy_vits14", image_size=28, out_channels=8))
    loading = Event()
    browser = retrieval_browser([TestSet(test_root)], {"a": lambda: loading.wait(60) and model})
    view = patch_explorer(browser)
    assert view.message.value == ""
    loading.set()
    assert "query 1 of 10" in settle(view).status.value


def test_a_browser_and_an_explorer_show_the_same_query(test_root):
    test = TestSet(test_root)
    model = build_model(ModelConfig("toy_vits14", image_size=28, out_channels=8), weights="hub")
    browser = retrieval_browser([test], {"a": model, "b": model})
    view = patch_explorer(browser)
    settle(view)
    assert "query 1 of 10" in view.status.value and "query 1 of 10" in browser.status.value
    browser.condition.value = "night"
    settle(view)
    assert view.number.value == browser.number.value == 6 and "query 6 of" in view.status.value
    view.next.click()
    settle(view)
    assert "query 7 of 10, night" in browser.status.value and browser.number.value == 7
    assert browser.condition.value == EVERY
    view.number.value = 2
    settle(view)
    view.method.value, view.rank.value = "b", 2
    settle(view)
    assert browser.method.value == "b" and "query 2 of 10, day" in browser.status.value
    assert browser.message.value == view.message.value == ""


def test_what_found_nothing_has_no_patches(test_root):
    test = TestSet(test_root)
    test.queries[0].write_bytes(b"no image")
    model = build_model(ModelConfig("toy_vits14", image_size=28, out_channels=8), weights="hub")
    with pytest.warns(UserWarning, match="skipped"):
        view = settle(patch_explorer([test], {"a": model}))
    assert f"{test.queries[0].name} is damaged" in view.message.value
    view.next.click()
    assert "query 2 of 10" in settle(view).status.value and view.message.value == ""
