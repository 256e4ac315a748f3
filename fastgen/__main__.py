"""``python -m fastgen``: the command line."""

from .cli import command

command()
