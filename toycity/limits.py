"""Queries of growing severity, for the study of where recognition ends.

```
root/images/limits/database                                 the very database of the test split
root/images/limits/queries_<condition>-<severity>/@....jpg  e.g. queries_blur-0.25
root/limits.json                                            written last: the set is complete
```
"""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from toycity.conditions import condition_named
from toycity.files import being_written, is_written, link_database, write_photos
from toycity.layouts import MappedCity
from toycity.work import Shot
from toycity.writer import QUERY_DRAWS, definition, read_config

MANIFEST = "limits.json"
SPLIT = "limits"


def write_limits(
    root: str | Path,
    conditions: Sequence[str] = ("blur", "lowlight", "changed"),
    severities: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    queries: int | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Render query sets by severity into the finished toy city `root`; return `root`.

    `TestSet(root, split="limits")` reads them, with conditions like "blur-0.25". A curve shows
    severity alone: of one condition, the spots, cameras, clouds, parked cars, exposure and grain
    are the same at every severity, and so is the order of the files. (Where a condition moves the
    camera, as `viewpoint` does, it moves further the same way; `occlusion` draws other traffic at
    each severity.) The spots are those of the test queries. Resumes and is left alone as
    `write_toycity` is.

    Args:
        severities: from 0, the plain day, to 1, the condition; at most two decimals.
        queries: for each condition and severity; None takes the config's `test_queries`.

    Raises:
        FileNotFoundError: `root` holds no finished toy city.
        FileExistsError: other limits are there, or a folder of that name which is not ours.
        ValueError: nothing asked for, one twice, too many queries, or a severity outside [0, 1]
            or of more decimals.
        KeyError: an unknown condition.
    """
    root = Path(root)
    config = read_config(root)
    queries = config.test_queries if queries is None else queries
    _check(conditions, severities, queries)
    chosen = {
        "conditions": list(conditions),
        "severities": [float(severity) for severity in severities],
        "queries": queries,
    }
    asked = definition(config) | {"arguments": chosen}
    if is_written(root / MANIFEST, asked, owned=(root / "images" / SPLIT,)):
        return root
    shots = list(limits_shots(root, **chosen))
    with being_written(root / MANIFEST, asked, len(shots)):
        link_database(root / "images", SPLIT)
        write_photos(shots, config.size, workers, progress)
    return root


def limits_shots(
    root: Path, conditions: Sequence[str], severities: Sequence[float], queries: int
) -> Iterator[Shot]:
    """Every photo of the limits, which are those of the toy city in `root`."""
    mapped = MappedCity.of(read_config(root), "test")
    seed = mapped.city.seed
    asked = mapped.query_numbers(queries, np.random.default_rng([seed, QUERY_DRAWS]), "queries")
    for condition in conditions:
        for severity in severities:
            note = f"{condition}-{severity:.2f}"
            rng = np.random.default_rng([seed, 16, zlib.crc32(condition.encode())])
            folder = root / "images" / SPLIT / f"queries_{note}"
            yield from mapped.visits(folder, asked, condition, severity, rng, note)


def _check(conditions: Sequence[str], severities: Sequence[float], queries: int) -> None:
    for name, values in (("conditions", conditions), ("severities", severities)):
        if not len(values) or len(set(values)) < len(values):
            raise ValueError(f"{name} is {tuple(values)}: name at least one, and none twice")
    for condition in conditions:
        for severity in severities:
            condition_named(condition).at(severity)
    long = [severity for severity in severities if round(severity, 2) != severity]
    if long:
        raise ValueError(f"severities {long} have more than two decimals: round them")
    if queries < 1:
        raise ValueError(f"queries is {queries}: ask for at least one")
