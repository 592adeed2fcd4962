"""Many models compared: variants and their runs, the designs of the paper's experiments, and what
is measured beside recall. Notebooks write `study.<name>`.
"""

from dinomix.plumbing.tables import readable
from dinomix.study.designs import open_profile
from dinomix.study.results import compare, overall, spread
from dinomix.study.study import Study, variants

__all__ = ["Study", "compare", "open_profile", "overall", "readable", "spread", "variants"]
