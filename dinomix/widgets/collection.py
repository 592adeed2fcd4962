"""Test sets and methods that are looked at: loaded, described and searched when first asked for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import RLock

import numpy as np
from torch import nn

from dinomix.data import TestSet
from dinomix.evaluation import Retrieval, hits, retrieve_described
from dinomix.model import PlaceModel
from dinomix.plumbing.files import atomic_path
from dinomix.retrieval import describe_batches
from dinomix.scale.descriptors import images_hash, model_hash
from dinomix.widgets.view import Report

Method = PlaceModel | Callable[[], PlaceModel] | Retrieval | Sequence[Retrieval]


class Collection:
    """Test sets and methods by name, see `retrieval_browser`.

    Several threads may ask. `report` is called with how far loading and describing are, and what
    it raises ends them. A model is put into eval mode.
    """

    def __init__(
        self,
        test_sets: Iterable[TestSet],
        methods: Mapping[str, Method],
        k: int = 5,
        cache: str | Path | None = None,
    ) -> None:
        test_sets = list(test_sets)
        self.test_sets = {test.name: test for test in test_sets}
        if not test_sets or not methods:
            given = f"{len(test_sets)} test sets and {len(methods)} methods are given"
            raise ValueError(f"nothing to look at: {given}, and it takes one of each")
        if len(self.test_sets) < len(test_sets):
            raise ValueError(
                f"two of the test sets {[test.name for test in test_sets]} have the same name; "
                "TestSet(folder, name=...) gives another one"
            )
        self.methods, self.k, self.cache = dict(methods), k, cache and Path(cache)
        # Threads must not share the random numbers of building, nor a model's modes and hooks.
        self._loading, self.computing = RLock(), RLock()
        self._retrievals: dict[tuple[str, str], Retrieval] = {}

    def model(self, method: str) -> PlaceModel:
        """The model of a method, loaded now unless it was before; a ValueError if there is none."""
        with self._loading:
            given = self.methods[method]
            if isinstance(given, Retrieval | Sequence):
                raise ValueError(f"{method} is given as a retrieval; patches take its model")
            if not isinstance(given, nn.Module):
                given = self.methods[method] = given()
            return given.eval()

    def knows(self, test: str, method: str) -> bool:
        """Whether `retrieval` needs no describing."""
        given = isinstance(self.methods[method], Retrieval | Sequence)
        return given or (test, method) in self._retrievals

    def retrieval(self, test: str, method: str, report: Report = lambda words: None) -> Retrieval:
        """What a method retrieves on a test set, described now unless it was before.

        Damaged images are skipped: see `dinomix.retrieve`. ValueError: the method is given as
        retrievals, none of which is on this test set.
        """
        key = test, method
        if key not in self._retrievals:
            self._retrievals[key] = self._retrieve(self.test_sets[test], method, report)
        return self._retrievals[key]

    def _retrieve(self, test: TestSet, method: str, report: Report) -> Retrieval:
        given = self.methods[method]
        if isinstance(given, Retrieval | Sequence):
            made = [given] if isinstance(given, Retrieval) else given
            for retrieval in made:
                if retrieval.test.fingerprint == test.fingerprint:
                    return retrieval
            raise ValueError(
                f"{method} was retrieved on {', '.join(r.test.name for r in made) or 'nothing'}, "
                f"not on {test.name}: give its model, or a retrieval on this test set"
            )
        report(f"{method}: loading the model")
        model = self.model(method)
        database = self._describe(model, test.database, report, f"{method}, database")
        queries = self._describe(model, test.queries, report, f"{method}, queries")
        return retrieve_described(test, database, queries, self.k)

    def _describe(
        self, model: PlaceModel, paths: Sequence[Path], report: Report, what: str
    ) -> np.ndarray:
        """Descriptors (N, D), read from the cache if they are there."""
        file = self.cache and self.cache / f"{model_hash(model)}-{images_hash(paths)}.npy"
        if file and file.is_file():
            return np.load(file)
        described, done = [], 0
        batches = describe_batches(model, paths, batch_size=8, on_error="skip", progress=False)
        while done < len(paths):  # in small batches: between them, others compute, or cancel
            with self.computing:
                described.append(next(batches))
            done += len(described[-1])
            report(f"{what}: {done} of {len(paths)} images described")
        descriptors = np.concatenate(described)
        if file:
            with atomic_path(file) as temporary:
                np.save(temporary, descriptors)
        return descriptors


def right_answers(retrieval: Retrieval, query: int) -> np.ndarray | None:
    """Which images retrieved for a query are right: bool (k,); None where that is unknown."""
    if retrieval.positives is None:
        return None
    return hits(retrieval.ranked[[query]], [retrieval.positives[query]])[0]


def in_words(retrieval: Retrieval, query: int, rank: int) -> str:
    """An answer (rank 0 is the first) as in "wrong, 31.4 m, 0.82", as far as it is known."""
    if retrieval.ranked[query, rank] < 0:
        return "nothing found"
    words, unit = [], retrieval.test.unit
    if (right := right_answers(retrieval, query)) is not None:
        words.append("right" if right[rank] else "wrong")
        if unit != "places":
            apart = retrieval.distances()[query, rank]
            words.append(f"{apart:.1f} m" if unit == "m" else f"{apart:.0f} {unit}")
    return ", ".join([*words, f"{retrieval.similarities[query, rank]:.2f}"])
