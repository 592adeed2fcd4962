"""Many models compared: variants and their runs, the designs of the paper's experiments, and what
is measured beside recall. What notebooks write as `study.<name>` is loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinomix.study.designs import open_profile as open_profile
    from dinomix.study.results import compare as compare
    from dinomix.study.results import overall as overall
    from dinomix.study.results import spread as spread
    from dinomix.study.study import Study as Study
    from dinomix.study.study import variants as variants

_HOME = {
    **{"open_profile": "designs", "Study": "study", "variants": "study"},
    **dict.fromkeys(("compare", "overall", "spread"), "results"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
