"""A profile as a whole: what it needs (`check`), its notebooks run in order (`notebooks`), what
they showed as a static site (`site`), and the last of them as a page of its own (`page`). Whatever
computes anything lies in the rooms below.
"""

from dinomix.plumbing.errors import extra

with extra("notebooks"):  # before its modules ask for them
    import nbformat as nbformat
    import papermill as papermill
