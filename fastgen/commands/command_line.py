"""The line that a run was started with, from its options."""

import shlex
from dataclasses import fields
from typing import Any, get_type_hints

from ..training import Run
from .model_options import MODELS, options_of

NOT_OF_THE_RUN = {"resume", "checkpoint", "dry_run", "overwrite", "config"}
"""Options that say what to do with a run, not what it is; a file's options are told one by one."""


def command_line(run: Run) -> str | None:
    """``fastgen train MODEL`` with the options that are not defaults; None where options of the run are not known."""
    name = run.config()["model"]["name"]
    try:
        options = options_of(run)
    except ValueError:
        return None
    default = MODELS[name](**(options.small if options.recipe == "small" else {}))
    hints = get_type_hints(type(options), include_extras=True)
    words = ["fastgen", "train", name]
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in NOT_OF_THE_RUN or value == getattr(default, field.name):
            continue
        named = [note.name for note in getattr(hints[field.name], "__metadata__", ()) if getattr(note, "name", None)]
        words += _words((named or [field.name])[0].replace("_", "-"), value)
    return shlex.join(words)


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]
