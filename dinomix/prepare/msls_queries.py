"""Which queries of the MSLS validation cities count: the 740 of the official evaluation.

The official toolkit (mapillary_sls) takes the photos marked `all` in subtask_index.csv, without
panoramas and without those that no database photo of their city is within 25 m of: 498 in
Copenhagen and 242 in San Francisco. Others use all 11,084 photos, and find recalls far lower.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dinomix.errors import first_of
from dinomix.prepare.raw import read_lines, read_table

if TYPE_CHECKING:
    from dinomix.prepare.msls import Side

OFFICIAL = 740
THRESHOLD = 25.0  # metres
LIST, INDEX = "val_queries.txt", "subtask_index.csv"


def choose_queries(raw: Path, cities: Mapping[str, tuple["Side", "Side"]]) -> tuple[set[str], str]:
    """Keys of the queries to use, and a note on which they are.

    They come from `raw`/val_queries.txt where there is one, else from each city's
    subtask_index.csv, else all are taken.

    Args:
        cities: database and queries of each city.

    Raises:
        ValueError: a list names a photo that is no query, or only a panorama.
    """
    known = {key for _, queries in cities.values() for key in queries.keys}
    if (raw / LIST).is_file():
        # a key or the path of its image, as the lists in use have it
        chosen = {Path(line).name.removesuffix(".jpg") for line in read_lines(raw / LIST)}
        if unknown := sorted(chosen - known):
            raise ValueError(
                f"{raw / LIST} names {len(unknown):,} keys that are no queries of "
                f"{' and '.join(cities)}, or are panoramas: {first_of(unknown)}"
            )
        return chosen, _note(f"the {len(chosen):,} in {LIST}", len(chosen))
    if all((queries.folder / INDEX).is_file() for _, queries in cities.values()):
        chosen = set()
        for database, queries in cities.values():
            chosen |= _official(database, queries)
        return chosen, _note(
            f"the {len(chosen):,} that the official toolkit takes by {INDEX}", len(chosen)
        )
    return known, _note(f"all {len(known):,}, for there is no {LIST} and no {INDEX}", len(known))


def _official(database: "Side", queries: "Side") -> set[str]:
    from scipy.spatial import KDTree  # here, for it takes long to import

    path = queries.folder / INDEX
    marks = read_table(path, ("all",))
    if unmarked := [key for key in queries.keys if key not in marks]:
        raise ValueError(f"{path} lacks {len(unmarked):,} keys of raw.csv: {first_of(unmarked)}")
    nearest, _ = KDTree(database.utm).query(queries.utm)
    return {
        key
        for key, distance in zip(queries.keys, nearest, strict=True)
        if marks[key]["all"] == "True" and distance <= THRESHOLD
    }


def _note(which: str, count: int) -> str:
    note = f"queries: {which}"
    if count != OFFICIAL:
        note += f"; results do not compare with those on the official {OFFICIAL}"
    return note
