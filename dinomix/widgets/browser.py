"""The retrieval browser: query after query, with what a method retrieves for it, and where."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from dinomix.data import TestSet
from dinomix.evaluation import Retrieval, hits
from dinomix.figures import RIGHT, WRONG, image_grid
from dinomix.figures.theme import DATABASE_COLOUR, QUERY_COLOUR, panels
from dinomix.images import read_image
from dinomix.widgets.collection import Collection, Method, in_words, right_answers
from dinomix.widgets.view import View, choice, number, offer, picture, set_range, show

EVERY = "every condition"


def retrieval_browser(
    test_sets: Iterable[TestSet],
    methods: Mapping[str, Method],
    k: int = 5,
    cache: str | Path | None = None,
) -> View:
    """Look through the queries of test sets, and what methods retrieve for them.

    Pick test set, condition and method; step through all queries or only those whose first image
    is wrong. A test set is described when it is first picked.

    Args:
        test_sets: in any layout, labelled or not.
        methods: name -> a model, a function without arguments that loads one, or what it
            retrieved: a `Retrieval`, or a list with one for each test set.
        k: how many images are shown for a query.
        cache: folder where descriptors are kept for the next time; None keeps them in memory.

    Raises:
        ValueError: there are no test sets or methods, or two test sets have one name.
    """
    return _RetrievalBrowser(Collection(test_sets, methods, k, cache))


def ranking(retrieval: Retrieval, query: int, cell: float = 1.9) -> Figure:
    """A query (its index) beside its nearest database images, framed green (right) or red (wrong).

    Above each stand rank, verdict, distance in the test set's unit and similarity, as far as they
    are known. A cell is so many inches wide.
    """
    test, found = retrieval.test, retrieval.ranked[query]
    paths = [test.queries[query], *(test.database[i] for i in found)]
    titles = [f"{rank + 1}: {in_words(retrieval, query, rank)}" for rank in range(len(found))]
    return image_grid(
        [[np.asarray(read_image(path)) for path in paths]],
        titles=[["query", *titles]],
        frames=[[None, *_colours(retrieval, query)]],
        cell=cell,
    )


def place_map(retrieval: Retrieval, query: int) -> Figure | None:
    """The database, the query, and the images retrieved for it, numbered, where they were taken.

    A sequence is drawn along its frames. None where there are no positions to draw: the test set
    is unlabelled, or only tells places apart.
    """
    test = retrieval.test
    if not test.labelled or test.unit == "places":
        return None
    streets = test.unit == "m"
    origin = test.database_utm.min(axis=0) if streets else np.zeros(2)
    database, found = test.database_utm - origin, retrieval.ranked[query]  # (N, 2), (k,)
    figure, ((axis,),) = panels(1, 1, (4.5, 4.5) if streets else (7, 1.6))
    if streets:
        axis.set(xlabel="east (m)", ylabel="north (m)")
        axis.set_aspect("equal", adjustable="datalim")  # a single street fills the map, too
    else:
        axis.set(xlabel="frame", yticks=[], ylim=(-1, 1))
    axis.scatter(*database.T, s=6, color=DATABASE_COLOUR, label="database")
    star = {"s": 400, "marker": "*", "color": QUERY_COLOUR, "edgecolors": "black"}
    axis.scatter(*(test.query_utm[query] - origin), label="query", **star)
    inside = {"ha": "center", "va": "center", "color": "white", "fontsize": 8, "weight": "bold"}
    colours = _colours(retrieval, query)
    for rank in reversed(range(len(found))):  # so that the first one lies on top
        spot = database[found[rank]]  # (2,)
        axis.scatter(*spot, s=120, color=colours[rank], edgecolors="black")
        axis.annotate(str(rank + 1), spot, **inside)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def _colours(retrieval: Retrieval, query: int) -> list[str | None]:
    if (right := right_answers(retrieval, query)) is None:
        return [None] * retrieval.ranked.shape[1]
    return [RIGHT if hit else WRONG for hit in right]


class Browsing:
    """A place in the queries of a retrieval: those of a condition, all or the failures."""

    def __init__(self) -> None:
        self.retrieval: Retrieval | None = None
        self.queries = np.zeros(0, dtype=int)  # (N,) indices of the chosen ones in the test set
        self.position = 0  # which of these is looked at

    @property
    def query(self) -> int | None:
        """Index of the query that is looked at; None where no query is as asked."""
        return int(self.queries[self.position]) if len(self.queries) else None

    def choose(self, retrieval: Retrieval, condition: str, only_failures: bool) -> None:
        """Look at the queries of a condition, from the one on that was looked at in this test set.

        Those whose first image is right can be left out; of an unlabelled test set all stay.
        """
        same = self.retrieval is not None and self.retrieval.test is retrieval.test
        before = self.query if same else None
        chosen = np.array([condition in (EVERY, name) for name in retrieval.test.conditions])
        if only_failures and retrieval.positives is not None:
            chosen &= ~hits(retrieval.ranked[:, :1], retrieval.positives)[:, 0]
        self.retrieval, self.queries = retrieval, np.flatnonzero(chosen)
        self.position = 0
        if before is not None and len(self.queries):
            self.position = int(np.searchsorted(self.queries, before)) % len(self.queries)

    def step(self, by: int) -> None:
        """Go on (or back, if negative); after the last query comes the first."""
        if len(self.queries):
            self.position = (self.position + by) % len(self.queries)

    def in_words(self) -> str:
        """What is looked at."""
        if self.query is None:
            return "no query is like this"
        test, query = self.retrieval.test, self.query
        words = [f"query {self.position + 1} of {len(self.queries)}", test.conditions[query]]
        if (right := right_answers(self.retrieval, query)) is not None:
            ranks = np.flatnonzero(right) + 1
            answers = len(self.retrieval.positives[query])
            first = f"first right one at rank {ranks[0]}" if len(ranks) else "none is right"
            words.append(f"{first} ({answers} right answers in the database)")
        return ", ".join(filter(None, [*words, test.queries[query].name]))


class _RetrievalBrowser(View):
    def __init__(self, collection: Collection) -> None:
        super().__init__("retrieval-browser")
        self.collection, self.browsing = collection, Browsing()
        collection.report = self.report
        self.test_set = choice("Test set", list(collection.test_sets))
        self.condition = choice("Condition", [EVERY])
        self.method = choice("Method", list(collection.methods))
        self.only_failures = ipywidgets.Checkbox(
            description="Only failures", tooltip="queries whose first image is wrong", indent=False
        )
        self.number = number("Query")
        self.previous = ipywidgets.Button(description="Previous", icon="arrow-left")
        self.next = ipywidgets.Button(description="Next", icon="arrow-right")
        self.ranking, self.map = picture("ranking"), picture("map")
        selects = [self.test_set, self.condition, self.method]
        self.watch(self._choose, *selects, self.only_failures)
        self.watch(lambda: self._go(self.number.value - 1 - self.browsing.position), self.number)
        self.watch(lambda: self._go(-1), self.previous)
        self.watch(lambda: self._go(1), self.next)
        steps = [self.previous, self.next, self.number, self.only_failures]
        self.compose(selects, steps, self.status, self.ranking, self.map)
        self.attempt(self._choose)

    def _choose(self) -> None:
        test = self.collection.test_sets[self.test_set.value]
        offer(self.condition, [EVERY, *filter(None, dict.fromkeys(test.conditions))])
        self.only_failures.disabled = not test.labelled
        retrieval = self.collection.retrieval(test.name, self.method.value)
        self.browsing.choose(retrieval, self.condition.value, self.only_failures.value)
        self._go(0)

    def _go(self, by: int) -> None:
        browsing = self.browsing
        browsing.step(by)
        set_range(self.number, len(browsing.queries))
        self.number.value = browsing.position + 1
        self.tell(browsing.in_words())
        for image, draw in ((self.ranking, ranking), (self.map, place_map)):
            nothing = browsing.query is None
            show(image, None if nothing else draw(browsing.retrieval, browsing.query))
