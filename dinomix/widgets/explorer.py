"""The attention explorer: which patch of a retrieved image a patch of the query matches."""

import html
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets
from ipyevents import Event
from torch import Tensor

from dinomix.attention.patches import block_maps, marked, match, middle_of, patch_at
from dinomix.data import TestSet
from dinomix.evaluation import Retrieval
from dinomix.images import read_image
from dinomix.retrieval import load_images
from dinomix.widgets.collection import Collection, Method, in_words
from dinomix.widgets.view import (
    NOTHING,
    View,
    choice,
    number,
    picture,
    set_range,
    show,
    slider,
    text,
)

KEPT = 4  # pairs of images whose maps stay in memory, all blocks of each


def attention_explorer(
    test_sets: Iterable[TestSet],
    methods: Mapping[str, Method],
    k: int = 5,
    cache: str | Path | None = None,
) -> View:
    """Click a patch of a query and see which patches of a retrieved image are like it.

    Likeness is the cosine similarity of patch features after a block of the backbone. A second
    method stands beside the first, with the image that it retrieves itself. Two sliders choose
    the patch, too, for those without a mouse.

    Args:
        test_sets, methods, k, cache: as of `retrieval_browser`; methods are models, or functions
            that load them.

    Raises:
        ValueError: there are no test sets or methods, or two test sets have one name.
    """
    return _AttentionExplorer(Collection(test_sets, methods, k, cache))


class _AttentionExplorer(View):
    def __init__(self, collection: Collection) -> None:
        super().__init__("attention-explorer")
        self.collection = collection
        collection.report = self.report
        methods = list(collection.methods)
        self.test_set = choice("Test set", list(collection.test_sets))
        self.number, self.rank = number("Query"), slider("Rank")
        self.method = choice("Method", methods)
        second = methods[1] if len(methods) > 1 else NOTHING
        self.beside = choice("Beside", [NOTHING, *methods], value=second)
        self.block, self.row, self.column = map(slider, ("Block", "Patch row", "Patch column"))
        self.query = picture("query")
        self.panels = [ipywidgets.VBox([picture("heat"), text("caption")]) for _ in "ab"]
        self.pictures = ipywidgets.HBox([self.query])
        # how far down and right in the query: each method has its patch there, whatever its grid
        self.spot = (0.5, 0.5)
        self._kept_maps = lru_cache(maxsize=KEPT)(self._compute_maps)
        images = [self.test_set, self.number, self.rank]
        looks = [self.method, self.beside, self.block]
        self.watch(self._show, *images, *looks)
        self.watch(self._slide, self.row, self.column)
        self.clicks = Event(source=self.query, watched_events=["click"])
        self.clicks.on_dom_event(lambda event: self.attempt(lambda: self._click(event)))
        self.compose(images, looks, [self.row, self.column], self.status, self.pictures)
        self.attempt(self._show)

    def _retrieval(self, method: str) -> Retrieval:
        return self.collection.retrieval(self.test_set.value, method)

    def _files(self, method: str) -> tuple[Path, Path]:
        """The query, and the image that a method retrieves for it."""
        found, query = self._retrieval(method), self.number.value - 1
        image = found.ranked[query, self.rank.value - 1]
        return found.test.queries[query], found.test.database[image]

    def _maps(self, method: str) -> list[Tensor]:
        """Features of query and retrieved image, for each block: (2, s, h, w)."""
        return self._kept_maps(method, *self._files(method))

    def _grid(self, method: str) -> tuple[int, int]:
        return tuple(self._maps(method)[-1].shape[-2:])

    def _compute_maps(self, method: str, query: Path, found: Path) -> list[Tensor]:
        model = self.collection.model(method)
        return block_maps(model, load_images(model, [query, found]))

    def _click(self, event: Mapping[str, Any]) -> None:
        down = event["relativeY"] / event["boundingRectHeight"]
        right = event["relativeX"] / event["boundingRectWidth"]
        self.spot = (down, right)
        self._show()

    def _slide(self) -> None:
        patch = (self.row.value - 1, self.column.value - 1)
        self.spot = middle_of(patch, self._grid(self.method.value))
        self._show()

    def _show(self) -> None:
        methods = [m for m in (self.method.value, self.beside.value) if m != NOTHING]
        set_range(self.number, len(self.collection.test_sets[self.test_set.value].queries))
        set_range(self.rank, min(self._retrieval(m).ranked.shape[1] for m in methods))
        at_last = self.block.value == self.block.max
        set_range(self.block, max(len(self._maps(m)) for m in methods))
        if at_last:  # of one method it stays there with another
            self.block.value = self.block.max
        self._show_query(self.method.value)
        panels = self.panels[: len(methods)]
        for panel, method in zip(panels, methods, strict=True):
            self._show_match(method, *panel.children)
        self.pictures.children = [self.query, *panels]

    def _show_query(self, method: str) -> None:
        grid = self._grid(method)
        patch = patch_at(self.spot, grid)
        for control, index, side in zip((self.row, self.column), patch, grid, strict=True):
            set_range(control, side)
            control.value = index + 1
        show(self.query, marked(read_image(self._files(method)[0]), patch, grid))
        row, column = patch
        self.tell(f"query {self.number.value}, patch in row {row + 1}, column {column + 1}")

    def _show_match(self, method: str, heat: ipywidgets.Image, caption: ipywidgets.HTML) -> None:
        maps = self._maps(method)
        block = min(self.block.value, len(maps))
        found = match(maps[block - 1], self.spot)
        image = read_image(self._files(method)[1])
        show(heat, marked(image, found.best, found.grid, found.heat))
        answer = in_words(self._retrieval(method), self.number.value - 1, self.rank.value - 1)
        row, column = found.best
        caption.value = (
            f"<b>{html.escape(method)}</b>: {answer}<br>"
            f"block {block} of {len(maps)}: cosine {found.heat.min():.2f} (blue) to "
            f"{found.heat.max():.2f} (red), in row {row + 1}, column {column + 1}"
        )
