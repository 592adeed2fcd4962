"""The retrieval browser: query after query, with what a method retrieves for it, and where."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import traitlets
from matplotlib.figure import Figure

from dinomix.data import TestSet
from dinomix.evaluation import Retrieval, hits
from dinomix.figures import RIGHT, WRONG, image_grid
from dinomix.figures.pictures import photos
from dinomix.figures.theme import DATABASE_COLOUR, QUERY_COLOUR, panels
from dinomix.widgets.collection import Collection, Method, in_words, right_answers
from dinomix.widgets.view import WIDE, View, choice, offer, picture, show, steps

EVERY = "every condition"
BY_NUMBER = "by number"


def retrieval_browser(
    test_sets: Iterable[TestSet],
    methods: Mapping[str, Method],
    k: int = 5,
    cache: str | Path | None = None,
) -> View:
    """Look through the queries of test sets, and what methods retrieve for them.

    A test set, labelled or not, is described when it is first picked, in a thread of its own.

    Args:
        methods: name -> a model, a function without arguments that loads one, or what it
            retrieved: a `Retrieval`, or a list with one for each test set.
        k: how many images are shown for a query.
        cache: folder where descriptors are kept for the next time; None keeps them in memory.

    Raises:
        ValueError: there are no test sets or methods, or two test sets have one name.
    """
    return _RetrievalBrowser(Collection(test_sets, methods, k, cache))


def ranking(retrieval: Retrieval, query: int) -> Figure:
    """A query (its index) beside its nearest database images, framed green (right) or red (wrong).

    Above each stand rank, verdict, distance in the test set's unit and similarity, as far as they
    are known.
    """
    found = retrieval.ranked[query]
    images = photos(retrieval, query, found)
    words = [f"{rank + 1}: {in_words(retrieval, query, rank)}" for rank in range(len(found))]
    titles = ["query" if images[0] is not None else "query: damaged", *words]
    frames = [None, *_colours(retrieval, query)]
    return image_grid([images], titles=[titles], frames=[frames])


def place_map(retrieval: Retrieval, query: int) -> Figure | None:
    """The database, the query, and the images retrieved for it, numbered, where they were taken.

    A sequence is drawn along its frames. None where there are no positions.
    """
    test = retrieval.test
    if not test.labelled or test.unit == "places":
        return None
    streets = test.unit == "m"
    origin = test.database_utm.min(axis=0) if streets else np.zeros(2)
    database, found = test.database_utm - origin, retrieval.ranked[query]  # (N, 2), (k,)
    figure, ((axis,),) = panels(1, 1, (32, 32) if streets else (50, 12))
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
    for rank in np.flatnonzero(found >= 0)[::-1]:  # so that the first one lies on top
        spot = database[found[rank]]  # (2,)
        axis.scatter(*spot, s=120, color=colours[rank], edgecolors="black")
        axis.annotate(str(rank + 1), spot, **inside)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def _colours(retrieval: Retrieval, query: int) -> list[str | None]:
    right = right_answers(retrieval, query)
    if right is None:
        return [None] * retrieval.ranked.shape[1]
    return [RIGHT if hit else WRONG for hit in right]


def asked_for(
    retrieval: Retrieval, condition: str, only_failures: bool, order: str = BY_NUMBER
) -> np.ndarray:
    """Indices of a condition's queries, all or the failures: int64 (N,).

    They rise, or, if `order` names a confidence, come from the surest on. Of an unlabelled test
    set there are no failures, and all stay.
    """
    chosen = np.array([condition in (EVERY, name) for name in retrieval.test.conditions])
    if only_failures and retrieval.positives is not None:
        chosen &= ~hits(retrieval.ranked[:, :1], retrieval.positives)[:, 0]
    queries = np.flatnonzero(chosen)
    if order == BY_NUMBER:
        return queries
    return queries[np.argsort(-retrieval.confidence(order)[queries], kind="stable")]


def step(queries: np.ndarray, query: int, by: int | None) -> int | None:
    """The query, or the next one where it is not among `queries`; by 1 the next, by -1 the one
    before, by None the first. After the last comes the first.
    """
    if not len(queries):
        return None
    if by is None:
        return int(queries[0])
    here = np.flatnonzero(queries == query)
    at = here[0] + by if len(here) else np.argmax(queries > query) + min(by, 0)
    return int(queries[at % len(queries)])


def query_in_words(retrieval: Retrieval, query: int | None, queries: np.ndarray) -> str:
    """A query, one of those asked for, and its answers in words."""
    if query is None:
        return "no query is like this"
    test, count = retrieval.test, len(retrieval.test.queries)
    words = [f"query {query + 1} of {count}"]
    if len(queries) < count:
        words[0] += f" ({queries.tolist().index(query) + 1} of {len(queries)} that are like this)"
    words.append(test.conditions[query])
    if test.queries[query] in retrieval.skipped:
        words.append("a damaged image")
    elif (right := right_answers(retrieval, query)) is not None:
        ranks = np.flatnonzero(right) + 1
        answers = len(retrieval.positives[query])
        first = f"first right one at rank {ranks[0]}" if len(ranks) else "none is right"
        words.append(f"{first} ({answers} right answers in the database)")
    units = {"spread": f" {test.unit}"}
    for name in retrieval.confidences():
        words.append(f"{name} {retrieval.confidence(name)[query]:.3g}{units.get(name, '')}")
    return ", ".join(filter(None, [*words, test.queries[query].name]))


class QueryView(View):
    """A view of one query and what a method retrieves for it; `show` draws it."""

    looking_at = traitlets.Tuple()  # test set, method, query (its index); see `traitlets.link`

    def __init__(self, name: str, collection: Collection) -> None:
        super().__init__(name)
        self.collection = collection
        self.test_set = choice("Test set", list(collection.test_sets))
        self.method = choice("Method", list(collection.methods))
        self.number = ipywidgets.BoundedIntText(1, min=1, max=1, description="Query", style=WIDE)
        self.number.layout.width = "10em"
        self.previous, self.next = steps()
        self.watch(self.show, self.test_set, self.method, self.number)
        self.watch(lambda: self.show(-1), self.previous)
        self.watch(lambda: self.show(1), self.next)
        self.looking_at = ()  # else a link would bring this as news, while the other view works
        self.observe(lambda change: self.attempt(lambda: self.look_at(*change.new)), "looking_at")

    def look_at(self, test: str, method: str, query: int) -> None:
        """Show what a linked view shows."""
        self.test_set.value, self.method.value = test, method
        self.step(0)
        self.number.value = query + 1
        self.show()

    def step(self, by: int) -> None:
        """Go on in the test set, or back; after the last query comes the first."""
        count = len(self.collection.test_sets[self.test_set.value].queries)
        self.number.max = count
        self.number.value = (self.number.value - 1 + by) % count + 1


class _RetrievalBrowser(QueryView):
    def __init__(self, collection: Collection) -> None:
        super().__init__("retrieval-browser", collection)
        self.condition = choice("Condition", [EVERY])
        self.only_failures = ipywidgets.Checkbox(description="Only failures", indent=False)
        self.only_failures.layout.width = "10em"  # leaves room for messages
        self.order = choice("Order", [BY_NUMBER])
        self.ranking, self.map = picture("ranking"), picture("map")
        self.watch(self.show, self.condition, self.only_failures)
        self.watch(lambda: self.show(None), self.order)
        selects = [self.test_set, self.condition, self.method]
        controls = [self.previous, self.next, self.number, self.only_failures, self.order]
        self.compose(selects, controls, shown=[self.status, self.ranking, self.map])
        self.attempt(self.show)

    def look_at(self, *what: Any) -> None:
        """Whatever was asked for until now; work that is under way goes on instead."""
        if not self.working:
            self.condition.value, self.only_failures.value = EVERY, False
            super().look_at(*what)

    def show(self, by: int | None = 0) -> None:
        test = self.collection.test_sets[self.test_set.value]
        offer(self.condition, [EVERY, *filter(None, dict.fromkeys(test.conditions))])
        self.step(0)
        self.only_failures.disabled = not test.labelled
        look = test.name, self.method.value
        work, draw = partial(self.collection.retrieval, *look), partial(self._draw, by)
        self.compute(look, work, draw, now=self.collection.knows(*look))

    def _draw(self, by: int | None, retrieval: Retrieval) -> None:
        surest = [(f"surest first: {name}", name) for name in retrieval.confidences()]
        offer(self.order, [(BY_NUMBER, BY_NUMBER), *surest])
        wanted = self.condition.value, self.only_failures.value, self.order.value
        queries = asked_for(retrieval, *wanted)
        query = step(queries, self.number.value - 1, by)
        self.tell(query_in_words(retrieval, query, queries))
        for place, draw in ((self.ranking, ranking), (self.map, place_map)):
            show(place, None if query is None else draw(retrieval, query))
        if query is not None:
            self.number.value = query + 1
            self.looking_at = retrieval.test.name, self.method.value, query
