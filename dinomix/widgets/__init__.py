"""Views for JupyterLab and Voila: ipywidgets over the functions of the package.

A view draws its pictures to PNG, so nothing needs a build step, and all of it runs without a
browser.
"""

from dinomix.plumbing.errors import extra

with extra("notebooks"):
    from dinomix.widgets.browser import retrieval_browser
    from dinomix.widgets.dashboard import ablation_dashboard
    from dinomix.widgets.explorer import patch_explorer
    from dinomix.widgets.monitor import training_monitor

attention_explorer = patch_explorer  # its first name

__all__ = ["ablation_dashboard", "patch_explorer", "retrieval_browser", "training_monitor"]
