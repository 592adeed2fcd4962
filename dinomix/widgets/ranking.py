"""Pictures of one query: what was retrieved for it, and where that lies."""

import numpy as np
from matplotlib.figure import Figure

from dinomix.evaluation import Retrieval
from dinomix.figures import RIGHT, WRONG, image_grid
from dinomix.figures.theme import DATABASE_COLOUR, QUERY_COLOUR, panels
from dinomix.images import read_image
from dinomix.widgets.collection import in_words, right_answers


def ranking(retrieval: Retrieval, query: int, cell: float = 1.9) -> Figure:
    """A query beside its nearest database images, framed green (right) or red (wrong).

    Above each stand rank, verdict, distance in the test set's unit and similarity, as far as they
    are known.

    Args:
        query: index in the test set.
        cell: inches an image.
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

    def place(positions: np.ndarray) -> np.ndarray:  # (N, 2) -> (2, N)
        return (positions - origin).T

    figure, ((axis,),) = panels(1, 1, (4.5, 4.5) if streets else (7, 1.6))
    if streets:
        axis.set(xlabel="east (m)", ylabel="north (m)")
        axis.set_aspect("equal", adjustable="datalim")  # a single street fills the map, too
    else:
        axis.set(xlabel="frame", yticks=[], ylim=(-1, 1))
    axis.scatter(*place(test.database_utm), s=6, color=DATABASE_COLOUR, label="database")
    asked = place(test.query_utm[[query]])
    axis.scatter(*asked, s=400, marker="*", color=QUERY_COLOUR, edgecolors="black", label="query")
    found = place(test.database_utm[retrieval.ranked[query]])  # (2, k)
    colours = _colours(retrieval, query)
    inside = {"ha": "center", "va": "center", "color": "white", "fontsize": 8, "weight": "bold"}
    for rank in reversed(range(len(colours))):  # so that the first one lies on top
        axis.scatter(*found[:, rank], s=120, color=colours[rank], edgecolors="black")
        axis.annotate(str(rank + 1), found[:, rank], **inside)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def _colours(retrieval: Retrieval, query: int) -> list[str | None]:
    right = right_answers(retrieval, query)
    if right is None:
        return [None] * retrieval.ranked.shape[1]
    return [RIGHT if hit else WRONG for hit in right]
