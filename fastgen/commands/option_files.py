"""Options of ``fastgen train`` from a file: a run's config.json, or a .json or .toml that a person wrote.

    model = "vae"                 with or without a run's ``{"model": {"name": ...}, "options": {...}}`` around them,
    data = "mnist"                by the names that the command line has, with - or _
    hidden = [400, 200]

What a file says comes before what the command line says, in the command line's words: so it is checked as these are.
A recipe that the command line names comes between the two, and one that the file names before both.
"""

import json
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from .._checks import check_option, describe, listed
from .._extras import require
from .boxes import option_words
from .model_options import MODELS

NOT_OF_THE_RUN = {"resume", "checkpoint", "dry_run", "overwrite", "config"}
"""Options that say what to do with a run, not what it is."""


ELSEWHERE = {
    "learning-rate": "--lr",
    "resolution": "--image-size",
    "center-crop": "--crop centre",
    "random-flip": "--flip",
    "outdir": "--run",
    "output-dir": "--run",
    "max-steps": "--epochs, or --max-minutes",
    "max-train-steps": "--epochs, or --max-minutes",
    "num-train-epochs": "--epochs",
    "train-batch-size": "--batch-size",
    "gradient-accumulation-steps": "--accumulate",
    "mixed-precision": "--precision",
    "resume-from-checkpoint": "--resume",
    "checkpointing-steps": "--save-every",
    "dataset-name": "--data",
    "num-workers": "nothing: images lie in memory",
    "workers": "nothing: images lie in memory",
}
"""What other tools call an option, and what it is called here."""


def check_foreign(arguments: list[str]) -> None:
    """Raise ValueError where an option has the name that it has elsewhere: it says the name that it has here."""
    for word in arguments:
        name = word.partition("=")[0].removeprefix("--").replace("_", "-").lower()
        if word.startswith("--") and name in ELSEWHERE:
            raise ValueError(f"{word.partition('=')[0]}: expected {ELSEWHERE[name]}, as it is called here")


def with_files(arguments: list[str]) -> list[str]:
    """``arguments`` with the options in the file that --config names before them; the model's name comes first.

    Raises:
        ValueError: the file cannot be read, is of another model, or has an option that the model has not.
    """
    named = [] if not arguments or arguments[0].startswith("-") else arguments[:1]
    given = arguments[len(named) :]
    path = _path(given)
    if path is None:
        return arguments
    name, options = _read(path)
    if named and name is not None and named[0] != name:
        raise ValueError(f"model: expected {name}, which {path} is of, got {named[0]}")
    name = named[0] if named else name
    if name is None:
        raise ValueError(f"model: expected one of {', '.join(MODELS)} before --config, since {path} names none")
    check_option("model", name, list(MODELS))
    recipes = MODELS[name].model.recipes
    recipe = [recipes[each] for each in _values(given, "--recipe") if each in recipes]
    return [name, *_as_arguments(name, options, path), *(option_words(recipe[-1]) if recipe else []), *given]


def _path(arguments: list[str]) -> Path | None:
    named = _values(arguments, "--config")
    if len(named) > 1:
        raise ValueError(f"config: expected one file of options, got {listed(named)}")
    return Path(named[0]) if named else None


def _values(arguments: list[str], option: str) -> list[str]:
    """What follows an option each time that it is given."""
    named = [after for word, after in pairwise(arguments) if word == option]
    return named + [word.partition("=")[2] for word in arguments if word.startswith(f"{option}=")]


def _read(path: Path) -> tuple[str | None, dict[str, Any]]:
    """The model's name, if it is there, and the options."""
    if path.suffix not in (".json", ".toml"):
        raise ValueError(f"config: expected a .json or .toml, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"config: expected a file of options, got {path}, which is not there")
    try:
        content = json.loads(path.read_bytes()) if path.suffix == ".json" else _toml(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected options by name, got {describe(content)}")
    model = content.pop("model", None)
    if isinstance(model, dict):
        model = model.get("name")
    options = content.get("options", content)
    if not isinstance(options, dict) or not isinstance(model, str | None):
        raise ValueError(f"{path}: expected the model's name and options by name, got {describe(options)}")
    own = options is not content
    options = {key.replace("-", "_"): value for key, value in options.items()}
    if not own and "config" in options:
        raise ValueError(f"{path}: expected options, and no other file of them, got config {options['config']}")
    return model, {key: value for key, value in options.items() if not own or key not in {"run", *NOT_OF_THE_RUN}}


def _toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        return require("tomli").loads(text)
    return tomllib.loads(text)


def _as_arguments(name: str, options: dict[str, Any], path: Path) -> list[str]:
    known = {field.name for field in fields(MODELS[name])} | {"from"}
    for option in options:
        if option not in known:
            raise ValueError(f"{path}: expected options of fastgen train {name}, got {option}; see its --help")
    return option_words(options)
