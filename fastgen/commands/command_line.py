"""The line that a run was started with, from its options."""

import shlex
from dataclasses import fields

from ..training import Run
from .model_options import MODELS, options_of
from .option_files import NOT_OF_THE_RUN, option_words


def command_line(run: Run) -> str | None:
    """``fastgen train MODEL`` with the options that are not defaults; None where options of the run are not known."""
    name = run.config()["model"]["name"]
    try:
        options = options_of(run)
    except ValueError:
        return None
    default = MODELS[name](**(options.small if options.recipe == "small" else {}))
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    told = {key: value for key, value in given.items() if value != getattr(default, key)}
    if getattr(options, "source", None) is not None:  # whose own they would be where nothing is said
        told = {key: value for key, value in given.items() if key in told or key in ("data", "crop")}
    return shlex.join(
        ["fastgen", "train", name, *option_words({k: v for k, v in told.items() if k not in NOT_OF_THE_RUN})]
    )
