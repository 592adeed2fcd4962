"""`python -m dinomix`: the command `dinomix`."""

from dinomix.cli import app

app(prog_name="dinomix")
