"""Notebook 10 as a page of its own: the same views without code, in any browser.

    python -m dinomix.pipeline.page demo    # what `make app` runs

What the notebook needs is run first, as far as it is not up to date. Then Voila serves the executed
copy, which has the profile's parameters, to this machine only: each visitor gets a kernel.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dinomix.pipeline.notebooks import NOTEBOOKS, run_profile
from dinomix.plumbing.errors import ExplainedError

NOTEBOOK = "10"
OPTIONS = (
    "--Voila.ip=localhost",
    "--template=dinomix",
    "--show_tracebacks=True",  # a message that says what is missing is for the one who reads it
    "--VoilaExecutor.startup_timeout=300",  # seconds; a cell may take as long as it likes
    "--MappingKernelManager.cull_idle_timeout=1800",  # kernels whose page was closed unseen
    "--MappingKernelManager.cull_interval=60",
)


def serve(notebook: Path, port: int, open_browser: bool = True) -> None:
    """Serve a notebook as a page at `http://localhost:<port>/` until interrupted.

    The next free port is taken where `port` is not free; Voila's log names it.
    """
    from voila.app import Voila

    searched = [str(NOTEBOOKS / "app"), os.environ.get("JUPYTER_PATH")]  # for our template
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, searched))
    Voila.launch_instance(
        [str(notebook), f"--port={port}", f"--Voila.open_browser={open_browser}", *OPTIONS]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dinomix.pipeline.page", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("profile", help="whose models and test sets to show: demo, toy, ...")
    parser.add_argument("--port", type=int, default=8866)
    parser.add_argument("--no-browser", action="store_true", help="open no browser window")
    options = parser.parse_args(arguments)
    try:
        *_, notebook = run_profile(options.profile, only=NOTEBOOK)  # it comes after its needs
    except (ExplainedError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    serve(notebook, options.port, open_browser=not options.no_browser)
    return 0


if __name__ == "__main__":
    sys.exit(main())
