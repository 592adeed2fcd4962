"""The `.mat` files in which NetVLAD's authors describe Pittsburgh and Tokyo 24/7."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinomix.datasets.prepare.planning import refuse_outside_paths
from dinomix.plumbing.positions import UTM_LIMITS, refuse_positions

FIELDS = ("dbImageFns", "utmDb", "qImageFns", "utmQ")
SPECIFICATIONS = (
    "The .mat files are NetVLAD's data set specifications (netvlad_v100_datasets.tar.gz): "
    "https://www.di.ens.fr/willow/research/netvlad/"
)


@dataclass(frozen=True)
class DbStruct:
    """Image names, relative to their folders, and UTM in metres, float64 (N, 2) and (Q, 2)."""

    database: list[str]
    database_utm: np.ndarray
    queries: list[str]
    query_utm: np.ndarray


def read_dbstruct(path: Path) -> DbStruct:
    """Read the struct `dbStruct` of a MATLAB 5 file, field by field, by name.

    Its names are cell arrays (N, 1) of strings and its positions (2, N) arrays, easting first,
    as NetVLAD's `dbBase.m` documents. Whatever is otherwise is named.
    """
    from scipy.io import loadmat  # here, for it takes long to import

    try:
        content = loadmat(path, variable_names=["dbStruct"])
    except Exception as error:  # a damaged file can raise almost anything
        raise ValueError(f"{path} is damaged, or is no MATLAB 5 file: {error}") from error
    struct = content.get("dbStruct")
    if struct is None or struct.dtype.names is None or struct.size != 1:
        raise ValueError(f"{path} holds no struct dbStruct. {SPECIFICATIONS}")
    if lacking := [name for name in FIELDS if name not in struct.dtype.names]:
        raise ValueError(
            f"dbStruct in {path} has no field {', '.join(lacking)}; "
            f"it has {', '.join(struct.dtype.names)}"
        )
    fields = dict(zip(struct.dtype.names, struct.item(), strict=True))
    sides = []
    for named, placed in (("dbImageFns", "utmDb"), ("qImageFns", "utmQ")):
        names = _names(fields[named], named, path)
        sides += [names, _positions(fields[placed], names, placed, path)]
    return DbStruct(*sides)


def _names(cells: np.ndarray, field: str, path: Path) -> list[str]:
    if not cells.size:
        raise ValueError(f"{field} in {path} names no images")
    names = []
    for i, cell in enumerate(cells.ravel()):
        if not isinstance(cell, np.ndarray) or cell.dtype.kind != "U" or cell.size != 1:
            raise ValueError(f"{field} in {path} is no cell array of names: cell {i} is {cell!r}")
        names.append(cell.item())
    refuse_outside_paths(names, path)
    return names


def _positions(values: np.ndarray, names: list[str], field: str, path: Path) -> np.ndarray:
    if values.shape != (2, len(names)) or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{field} in {path} is {values.dtype} {values.shape}, "
            f"expected numbers (2, {len(names)}), one column for each name"
        )
    positions = values.T.astype(np.float64)  # (2, N) -> (N, 2)
    refuse_positions(names, positions, UTM_LIMITS, path)
    return positions
