"""Notebook 10 as a page of its own: the same views without code, in any browser."""

import os
from pathlib import Path

from dinomix.pipeline.notebooks import NOTEBOOKS

NOTEBOOK = "10"
OPTIONS = (
    "--Voila.ip=localhost",
    "--template=dinomix",
    "--progressive_rendering=True",  # cells are shown as they are done
    "--show_tracebacks=True",  # a message that says what is missing is for the one who reads it
    "--VoilaExecutor.startup_timeout=300",  # seconds; a cell may take as long as it likes
    "--MappingKernelManager.cull_idle_timeout=1800",  # kernels whose page was closed unseen
    "--MappingKernelManager.cull_interval=60",
)


def serve(notebook: Path, port: int, open_browser: bool = True) -> None:
    """Serve an executed notebook at `http://localhost:<port>/` until interrupted, by Voila.

    To this machine only; each visitor gets a kernel. The next free port is taken where `port` is
    not free; Voila's log names it.
    """
    from voila.app import Voila

    searched = [str(NOTEBOOKS / "app"), os.environ.get("JUPYTER_PATH")]  # for our template
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, searched))
    Voila.launch_instance(
        [str(notebook), f"--port={port}", f"--Voila.open_browser={open_browser}", *OPTIONS]
    )
