"""A profile as a whole: what it needs (`check`), its notebooks run in order (`notebooks`), and the
last of them as a page (`page`). Whatever computes anything lies in the rooms below.
"""

from dinomix.plumbing.errors import extra

with extra("notebooks"):  # before its modules ask for them
    import nbformat as nbformat
    import papermill as papermill
