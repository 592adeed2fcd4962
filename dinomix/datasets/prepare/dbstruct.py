"""The `.mat` files in which NetVLAD's authors describe Pittsburgh and Tokyo 24/7."""

from pathlib import Path

import numpy as np

from dinomix.datasets.prepare.planning import LAYOUTS, refuse_outside_paths
from dinomix.plumbing.positions import UTM_LIMITS, refuse_positions

FIELDS = {"database": ("dbImageFns", "utmDb"), "queries": ("qImageFns", "utmQ")}
SPECIFICATIONS: str = LAYOUTS["specifications"]


def read_dbstruct(path: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """Of "database" and "queries": image names, relative to their folders, and UTM in metres,
    float64 (N, 2).

    Read are fields of the struct `dbStruct` of a MATLAB 5 file: names are cell arrays (N, 1) of
    strings and positions (2, N) arrays, easting first, as NetVLAD's `dbBase.m` documents. Whatever
    is otherwise is named.
    """
    from scipy.io import loadmat  # here, for it takes long to import

    try:
        struct = loadmat(path, variable_names=["dbStruct"], simplify_cells=True).get("dbStruct")
    except Exception as error:  # a damaged file can raise almost anything
        raise ValueError(f"{path} is damaged, or is no MATLAB 5 file: {error}") from error
    if not isinstance(struct, dict):
        raise ValueError(f"{path} holds no struct dbStruct. {SPECIFICATIONS}")
    if lacking := [name for side in FIELDS.values() for name in side if name not in struct]:
        raise ValueError(
            f"dbStruct in {path} has no field {', '.join(lacking)}; it has {', '.join(struct)}"
        )
    sides = {}
    for side, (named, placed) in FIELDS.items():
        names = np.atleast_1d(struct[named]).tolist()
        if not names:
            raise ValueError(f"{named} in {path} names no images")
        for i, name in enumerate(names):
            if not isinstance(name, str):
                raise ValueError(f"{named} in {path} is no cell array of names: cell {i} is {name}")
        refuse_outside_paths(names, path)
        positions = np.atleast_2d(np.transpose(struct[placed]))  # (2, N) -> (N, 2)
        if positions.shape != (len(names), 2) or positions.dtype.kind not in "fiu":
            raise ValueError(
                f"{placed} in {path} is {positions.dtype} {positions.T.shape}, "
                f"expected numbers (2, {len(names)}), one column for each name"
            )
        refuse_positions(names, positions, UTM_LIMITS, path)
        sides[side] = names, positions.astype(np.float64)
    return sides
