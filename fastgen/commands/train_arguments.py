"""From the words after ``fastgen train`` to a model's name, its options, and its run."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from .._checks import check_option
from .._console import did_you_mean
from ..data import NAMES
from ..training import CheckpointError, Run, checkpoint
from . import parse
from .boxes import option_words
from .model_options import MODELS, options_of
from .option_files import check_foreign, with_files
from .run_words import so_far
from .train_options import Train

FREE_ON_RESUME = (
    *("data_root", "epochs", "save_every", "samples", "tensorboard", "dry_run", "device", "run", "resume"),
    *("checkpoint", "patience", "max_minutes", "overwrite", "config"),
)
"""Options that a resumed run may change: all others would make it another run."""

OF_A_START: dict[str, Any] = {"resume": False, "checkpoint": "last", "overwrite": False, "dry_run": False}
"""Options that say what one start of a run does, and nothing of the next one."""


def read(arguments: list[str]) -> tuple[str, Train, Run]:
    """The model's name, the options, and the run; options that a resumed run was started with are its defaults."""
    arguments = with_files(arguments)
    if arguments and arguments[0] in ("-h", "--help"):
        subcommands: Any = tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in MODELS.items())
        parse(Union[subcommands], "train", arguments)  # noqa: UP007 - built from a table
    if not arguments or arguments[0] not in MODELS:
        got = f"got {arguments[0]!r}{did_you_mean(arguments[0], MODELS)}" if arguments else "got nothing"
        raise ValueError(f"model: expected one of {', '.join(MODELS)}, right after train, {got}")
    name, arguments = arguments[0], arguments[1:]
    check_foreign(arguments)
    options: Train = parse(MODELS[name], f"train {name}", arguments)
    begun: Train = MODELS[name]()
    if options.recipe is not None and not options.resume:
        recipes = MODELS[name].model.recipes
        recipe = option_words(recipes[check_option("recipe", options.recipe, list(recipes))])
        begun = parse(MODELS[name], f"train {name}", recipe)
        options = parse(MODELS[name], f"train {name}", [*recipe, *arguments])
    data = options.data if options.data in NAMES else Path(options.data).resolve().stem or "images"
    run = Run(options.run or f"runs/{name}-{data}")
    if not options.resume:
        _check_needed(options, begun)
        if not options.dry_run:
            run.check_new(options.overwrite)
        for option, other in {"init_from": options.init_from, "from": getattr(options, "source", None)}.items():
            if other is not None and Path(other) == run.folder.resolve():
                raise ValueError(f"{option}: expected another run than the one to write, got {run.folder}")
        return name, _absolute(options), run
    config = run.config()
    if config["model"]["name"] != name:
        raise ValueError(f"model: expected {config['model']['name']}, which the run in {run.folder} is of, got {name}")
    started = options_of(run)
    options = parse(MODELS[name], f"train {name}", arguments, default=replace(started, **OF_A_START))
    options = _absolute(options)
    _check_saved(run, options)
    for field in fields(started):
        before, now = getattr(started, field.name), getattr(options, field.name)
        moved = field.name == "data" and before not in NAMES and now not in NAMES  # its content is checked
        if now != before and field.name not in FREE_ON_RESUME and not moved:
            raise ValueError(f"{field.name}: expected {before}, as when the run in {run.folder} began, got {now}")
    return name, options, run


def _check_saved(run: Run, options: Train) -> None:
    """Raise ValueError if the run lost its checkpoints, or was trained for more epochs than it is to have."""
    if not run.has_checkpoint:
        if len(lines := run.metrics()) > 1:  # the first may be there before anything is saved
            raise ValueError(
                f"resume: expected a checkpoint in {run.checkpoints}, beside metrics of {len(lines)} epochs, got none;"
                " --overwrite begins again"
            )
        return
    try:
        here = checkpoint.load_state(run.checkpoints, options.checkpoint)["position"]
    except CheckpointError:  # which resuming mends, or says more about
        return
    if options.epochs < (trained := here["epoch"] + (here["batch"] > 0)):
        raise ValueError(
            f"epochs: expected {trained} or more, since the run in {run.folder} holds"
            f" {so_far(here['epoch'], here['batch'])}, got {options.epochs}"
        )


def _check_needed(options: Train, begun: Train) -> None:
    """Raise ValueError if an option was given that has no effect beside the others.

    Args:
        options: all.
        begun: what they are where nothing is given.
    """
    for name in options.model.needs:
        value = getattr(options, name, None)
        if value != getattr(begun, name, None) and (lacks := _lacks(options, name)):
            raise ValueError(f"{name}: expected it {lacks}, got {value}")


def _lacks(options: Train, name: str) -> str:
    """With what alone the option ``name`` counts, where that is not so, or ""."""
    for other, values in options.model.needs.get(name, {}).items():
        words = [" ".join(option_words({other: each})) for each in values or (True,)]
        if not hasattr(options, other):
            return f"with models that have {option_words({other: True})[0]} only"
        found = getattr(options, other)
        if found not in values if values else not found:
            return f"with {' or '.join(words)} only"
        if lacks := _lacks(options, other):
            return f"with {' '.join(option_words({other: found}))} only, and that {lacks}"
    return ""


def _absolute(options: Train) -> Train:
    """The same options wherever the run is used from."""
    data = options.data if options.data in NAMES else str(Path(options.data).resolve())
    return replace(options, data=data, data_root=options.data_root and str(Path(options.data_root).resolve()))
