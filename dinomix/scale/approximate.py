"""Approximate search: FAISS indexes named by a factory string, for databases of millions."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import faiss
import numpy as np

from dinomix.plumbing.configs import whole
from dinomix.plumbing.files import atomic_path
from dinomix.retrieval import BLOCK_BYTES, Found, described
from dinomix.scale.search import compare_again, row_blocks

FACTORY = "https://github.com/facebookresearch/faiss/wiki/The-index-factory"


class ApproximateIndex:
    """Descriptors in a FAISS index: less memory and time than `search`, some neighbours missed.

    `search` is exact and needs no building: prefer it up to some hundred thousand images.
    `benchmarks/search.py` measures what common indexes lose and gain.
    """

    def __init__(self, index: faiss.IndexIDMap) -> None:
        self.index = index

    @classmethod
    def build(
        cls,
        database: np.ndarray,
        factory: str,
        *,
        learn_from: np.ndarray | None = None,
        training: int = 50_000,
        seed: int = 0,
        block_bytes: int = BLOCK_BYTES,
    ) -> Self:
        """Train an index on some of the descriptors and add all of them, block by block.

        Args:
            database: (N, D), rows of unit length; may be a memory map larger than memory. Rows of
                NaN are left out.
            factory: FAISS' description of an index: "PCA256,IVF1024,PQ64" keeps 256 dimensions,
                divides the rest into 1024 cells, and describes an image by 64 bytes there. "SQ8"
                keeps a byte of each entry, "LSHt" a bit: whether it is above the median.
            learn_from: (n, D), descriptors that the index learns from; None takes the database's.
            training: how many of these, drawn at random by `seed`, all in memory; FAISS asks for
                39 a cell at least.
            block_bytes: of a block of the database in float32.

        Raises:
            ValueError: FAISS knows no such index, or cannot train or fill it with this database.
        """
        if database.ndim != 2 or not len(database):
            raise ValueError(f"descriptors should be (N, D), but are {database.shape}")
        training, seed = whole("training", training, least=1), whole("seed", seed)
        source = database if learn_from is None else learn_from
        if source.shape[1:] != database.shape[1:]:
            raise ValueError(f"learn_from is {source.shape}, and the database {database.shape}")
        drawn = np.random.default_rng(seed).permutation(len(source))[:training]
        sample = np.ascontiguousarray(source[np.sort(drawn)], np.float32)  # (n, D)
        sample = sample[described(sample)]
        with _explained(
            f"FAISS cannot build the index {factory!r} from {len(sample)} descriptors of "
            f"{database.shape[1]} entries; {FACTORY} explains the names"
        ):
            in_bits = "LSH" in str(factory)  # compared by how many differ
            metric = faiss.METRIC_L2 if in_bits else faiss.METRIC_INNER_PRODUCT
            index = faiss.index_factory(database.shape[1], factory, metric)
            index.train(sample)
            named = faiss.IndexIDMap(index)  # rows keep their numbers where some are left out
            rows = max(1, block_bytes // (4 * database.shape[1]))
            for start, block in row_blocks(database, rows):
                good = np.flatnonzero(described(block))
                named.add_with_ids(block[good], good + start)
        return cls(named)

    def __len__(self) -> int:
        return self.index.ntotal

    @property
    def bytes_per_image(self) -> int:
        """Of what the index keeps of a descriptor, without its lists; ValueError for a graph."""
        with _explained("bytes_per_image is not known of this index"):
            return self.index.index.sa_code_size()

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        parameters: str = "",
        database: np.ndarray | None = None,
        candidates: int = 100,
    ) -> Found:
        """The k nearest that the index finds for each query.

        Args:
            queries: float32 (Q, D), rows of unit length, or of NaN: these find nothing.
            parameters: of the index, as FAISS writes them: "nprobe=32" looks into 32 cells,
                "efSearch=64" walks further through a graph. They stay until others are given.
            database: what the index was built from; then the index only proposes `candidates` for
                each query, and their similarities are computed from the descriptors themselves.
                Else the similarities are the index's own, as coarse as what it keeps: of bits,
                minus how many differ.

        Returns:
            as `search` returns; -inf and -1 where the index found fewer.

        Raises:
            ValueError: the queries or the database do not fit the index, k < 1, or the index has
                no such parameter.
        """
        k, candidates = whole("k", k, least=1), whole("candidates", candidates, least=1)
        if database is not None:
            last = faiss.vector_to_array(self.index.id_map).max(initial=-1)
            if database.shape[1:] != (self.index.d,) or last >= len(database):
                raise ValueError(
                    f"the index holds {len(self)} descriptors of {self.index.d} entries, but the "
                    f"database is {database.shape}; give the one it was built from."
                )
        if queries.ndim != 2 or queries.shape[1] != self.index.d:
            raise ValueError(
                f"cannot search the index for the nearest {k} of queries {queries.shape}; they "
                f"should be (Q, {self.index.d}), described by the model of the database."
            )
        queries = np.ascontiguousarray(queries, np.float32)
        k = min(k, len(self))
        wanted = k if database is None else min(max(k, candidates), len(self))
        unknown = ~described(queries)
        asked = np.where(unknown[:, None], 0, queries)
        with _explained(f"the index cannot be searched with the parameters {parameters!r}"):
            if parameters:
                faiss.ParameterSpace().set_index_parameters(self.index, parameters)
            similarities, indices = self.index.search(asked, wanted)
        indices[unknown] = -1
        if database is not None:
            return compare_again(database, queries, indices, k)
        if self.index.metric_type == faiss.METRIC_L2:
            similarities = -similarities
        similarities[indices < 0] = -np.inf  # FAISS has the lowest float there
        return similarities, indices

    def save(self, file: str | Path) -> None:
        """Write the index to one file, in FAISS' own format."""
        with atomic_path(file) as partial:
            faiss.write_index(self.index, str(partial))

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """What `save` wrote; FileNotFoundError or ValueError where there is no such thing."""
        if not Path(file).is_file():
            raise FileNotFoundError(f"there is no index {file}; ApproximateIndex.build makes one")
        with _explained(f"{file} holds no whole FAISS index"):
            index = faiss.read_index(str(file))
        if not isinstance(index, faiss.IndexIDMap):
            raise ValueError(f"{file} holds a FAISS index that ApproximateIndex.save did not write")
        return cls(index)


@contextmanager
def _explained(complaint: str) -> Iterator[None]:
    """FAISS' errors as ValueErrors: the complaint, and the reason without its place in a source."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        reason = re.sub(r"^Error in .*?\.cpp:\d+: (Error: '.*' failed: )?", "", str(error))
        raise ValueError(f"{complaint}: {reason.partition(chr(10))[0].strip(' .')}") from error
