"""The patch explorer: which patch of a retrieved image a patch of the query matches."""

import html
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets
import numpy as np
import traitlets
from ipyevents import Event
from torch import Tensor

from dinomix.attention.patches import WIDTH, block_maps, marked, match, middle_of, patch_at
from dinomix.data import TestSet
from dinomix.images import read_image
from dinomix.retrieval import load_images
from dinomix.widgets.browser import QueryView
from dinomix.widgets.collection import Collection, Method, in_words
from dinomix.widgets.view import NOTHING, ONE_AT_A_TIME, Report, View, choice, picture, show, slider


def patch_explorer(
    test_sets: Iterable[TestSet] | QueryView,
    methods: Mapping[str, Method] | None = None,
    k: int = 5,
    cache: str | Path | None = None,
) -> View:
    """Click a patch of a query and see which patches of a retrieved image are like it.

    Likeness is the cosine similarity of patch features after a block of the backbone. Two sliders
    choose the patch, too, for those without a mouse. Arguments and errors as of
    `retrieval_browser`; methods are models, or functions that load them.

    Args:
        test_sets: or a `retrieval_browser`, to look into what it shows, and it at what this shows.
    """
    if not isinstance(test_sets, QueryView):
        view = _PatchExplorer(Collection(test_sets, methods or {}, k, cache))
        view.attempt(view.show)
        return view
    view = _PatchExplorer(test_sets.collection)
    with ONE_AT_A_TIME:
        traitlets.link((test_sets, "looking_at"), (view, "looking_at"))
    return view


class Look(NamedTuple):
    """Into a query and what a method retrieved for it."""

    method: str
    ranks: int  # how many were retrieved
    query: Path
    found: Path
    maps: list[Tensor]  # features of both after each block: (2, s, h, w)
    grid: tuple[int, int]  # rows and columns of patches
    answer: str


class _PatchExplorer(QueryView):
    def __init__(self, collection: Collection) -> None:
        super().__init__("patch-explorer", collection)
        methods = list(collection.methods)
        second = methods[1] if len(methods) > 1 else NOTHING
        self.beside = choice("Beside", [NOTHING, *methods], value=second)
        labels = "Rank", "Block", "Patch row", "Patch column"
        self.rank, self.block, self.row, self.column = map(slider, labels)
        self.query, *self.heats = map(picture, ("query", "heat", "heat"))
        for place in (self.query, *self.heats):  # equally wide, whatever stands below
            place.layout = {"flex": f"0 1 {WIDTH}px", "min_width": "0", "margin": "0 16px 0 0"}
        # how far down and right in the query: each method has its patch there, whatever its grid
        self.spot = (0.5, 0.5)
        self.drawn: tuple[Any, list[Look]] = (None, [])  # what was asked for, and what came of it
        self.watch(self.show, self.beside, self.rank, self.block)
        self.watch(self._slide, self.row, self.column)
        self.clicks = Event(source=self.query, watched_events=["click"])
        self.clicks.on_dom_event(lambda event: self.attempt(lambda: self._click(event)))
        images = [self.test_set, self.previous, self.next, self.number]
        looks, patch = [self.method, self.beside, self.rank], [self.block, self.row, self.column]
        self.compose(images, looks, patch, shown=[self.status, [self.query, *self.heats]])

    def _click(self, event: Mapping[str, Any]) -> None:
        down = event["relativeY"] / event["boundingRectHeight"]
        self.spot = (down, event["relativeX"] / event["boundingRectWidth"])
        self.show()

    def _slide(self) -> None:
        self.spot = middle_of((self.row.value - 1, self.column.value - 1), self.drawn[1][0].grid)
        self.show()

    def show(self, by: int = 0) -> None:
        self.step(by)
        both = dict.fromkeys([self.method.value, self.beside.value])  # one if they are the same
        methods = tuple(method for method in both if method != NOTHING)
        key = self.test_set.value, self.number.value - 1, self.rank.value - 1, methods
        known = key == self.drawn[0]
        work = (lambda report: self.drawn[1]) if known else partial(self._look, *key)
        self.compute(key, work, partial(self._draw, key), now=known)

    def _look(
        self, test: str, query: int, rank: int, methods: Iterable[str], report: Report
    ) -> list[Look]:
        looks = []
        for method in methods:
            found = self.collection.retrieval(test, method, report)
            ranks = found.ranked.shape[1]
            image = found.ranked[query, min(rank, ranks - 1)]
            if image < 0:
                raise ValueError(f"{found.test.queries[query]} is damaged, and nothing was found")
            report(f"{method}: comparing patches")
            files = found.test.queries[query], found.test.database[image]
            model = self.collection.model(method)
            with self.collection.computing:
                maps = block_maps(model, load_images(model, files))
            answer = in_words(found, query, min(rank, ranks - 1))
            looks.append(Look(method, ranks, *files, maps, tuple(maps[-1].shape[-2:]), answer))
        return looks

    def _draw(self, key: tuple, looks: list[Look]) -> None:
        self.drawn = key, looks
        self.rank.max = min(look.ranks for look in looks)
        at_last = self.block.value == self.block.max
        self.block.max = max(len(look.maps) for look in looks)
        if at_last:  # of one method it stays there with another
            self.block.value = self.block.max
        self._draw_query(looks[0])
        for place, look in zip_longest(self.heats, looks):
            self._draw_match(place, look)
        self.looking_at = key[0], looks[0].method, key[1]

    def _draw_query(self, look: Look) -> None:
        patch = patch_at(self.spot, look.grid)
        for control, index, side in zip((self.row, self.column), patch, look.grid, strict=True):
            control.max, control.value = side, index + 1
        where = f"row {patch[0] + 1}, column {patch[1] + 1}"
        words = f"query {self.number.value} of {self.number.max}, patch in {where}"
        show(self.query, marked(read_image(look.query), patch, look.grid), words)
        self.tell(f"{words}, {look.query.name}")

    def _draw_match(self, place: ipywidgets.HTML, look: Look | None) -> None:
        if look is None:
            return show(place, None)
        block = min(self.block.value, len(look.maps))
        heat = match(look.maps[block - 1], self.spot)
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        words = (
            f"block {block} of {len(look.maps)}: cosine {heat.min():.2f} (dark) to "
            f"{heat.max():.2f} (bright), in row {row + 1}, column {column + 1}"
        )
        picture = marked(read_image(look.found), (row, column), heat.shape, heat)
        caption = f"<b>{html.escape(look.method)}</b>: {look.answer}<br>{words}"
        show(place, picture, f"{look.method}, {look.answer}, {words}", caption)
