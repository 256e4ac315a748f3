"""The line that a run was started with, from its options."""

import shlex
from dataclasses import fields
from typing import Any

from ..training import Run
from .boxes import option_words
from .model_options import MODELS, options_of
from .option_files import NOT_OF_THE_RUN
from .train_options import Train


def command_line(run: Run) -> str | None:
    """``fastgen train MODEL`` with the options that are not defaults; None where options of the run are not known."""
    name = run.config()["model"]["name"]
    try:
        options = options_of(run)
    except ValueError:
        return None
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    recipe = options.model.recipes.get(options.recipe or "", {})
    lines = [_told(given, MODELS[name](**recipe))]
    if options.recipe == "paper":  # which once set nothing
        lines.append(_told(given | {"recipe": None}, MODELS[name]()))
    return shlex.join(["fastgen", "train", name, *min(lines, key=len)])


def _told(given: dict[str, Any], default: Train) -> list[str]:
    """The words of what is not the default."""
    given = {"recipe": given["recipe"], **given}  # it comes first: the others count beside it
    told = {key: value for key, value in given.items() if value != getattr(default, key)}
    if given.get("source") is not None:  # whose own they would be where nothing is said
        told = {key: value for key, value in given.items() if key in told or key in ("data", "crop")}
    return option_words({key: value for key, value in told.items() if key not in NOT_OF_THE_RUN})
