"""Many models compared: variants and their runs, the designs of the paper's experiments, and what
notebooks make of the results. Each measurement is a module of its own: `costs`, `probes`,
`comparison`, `sequences`; `reported` holds what others measured. Loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinomix.study.designs import Setup as Setup
    from dinomix.study.designs import open_profile as open_profile
    from dinomix.study.lineups import lineup as lineup
    from dinomix.study.results import compare as compare
    from dinomix.study.results import overall as overall
    from dinomix.study.results import save_results as save_results
    from dinomix.study.results import spread as spread
    from dinomix.study.study import Study as Study
    from dinomix.study.study import Variant as Variant
    from dinomix.study.study import variants as variants

_HOME = {
    **dict.fromkeys(("Setup", "open_profile"), "designs"),
    **dict.fromkeys(("compare", "overall", "save_results", "spread"), "results"),
    **dict.fromkeys(("Study", "Variant", "variants"), "study"),
    "lineup": "lineups",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
