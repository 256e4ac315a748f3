"""Options of ``fastgen train`` for each model: those of every training, and those of its constructor."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields, make_dataclass
from functools import cache
from typing import Annotated, Any, get_type_hints

import tyro

from .. import models
from ..training import Run
from .autoencoder_options import TrainAdversarialAutoencoder
from .boxes import option_words
from .classifier_options import TrainClassifier
from .constructor_options import options_of_model
from .given_options import TrainGiven
from .train_options import Train

BASES: dict[str, type[Train]] = {
    "gated-pixelcnn": TrainGiven,
    "classifier": TrainClassifier,
    "adversarial-autoencoder": TrainAdversarialAutoencoder,
}
"""Of models whose command line says more than their constructor takes: another run to begin with, for instance."""

RECIPES = {"paper": "the paper's, perhaps days on a CPU", "small": "an hour there or less"}
"""What each recipe is, in words."""


def options_class(name: str, model: type[models.Model]) -> type[Train]:
    """The options of ``fastgen train NAME``, as a dataclass.

    Raises:
        TypeError: the constructor has an argument without type or default, or one that is an option of every model.
        ValueError: a recipe of the model sets an option that there is not.
    """
    base, own = BASES.get(name, Train), options_of_model(model)
    known = [each.name for each in fields(base)]
    if twice := [each.name for each in own if each.name in known]:
        raise TypeError(
            f"{model.__name__}: expected other options than those of every model, got {', '.join(twice)};"
            f" {model.__name__}.arguments can give it another name"
        )
    for recipe, values in model.recipes.items():
        if unknown := set(values) - {*known, *(each.name for each in own)}:
            raise ValueError(f"recipes: expected options of {name} in {recipe}, got {', '.join(sorted(unknown))}")
    if unknown := set(model.defaults) - {*known, *(each.name for each in own)}:
        raise ValueError(f"defaults: expected options of {name}, got {', '.join(sorted(unknown))}")
    types = get_type_hints(base, include_extras=True)
    placed = {"recipe", *(each for names in Train.boxes.values() for each in names)}
    others = [each for each in known if each not in placed] + [each.name for each in own]
    recipes = {recipe: " ".join(option_words(values)) for recipe, values in model.recipes.items()}
    told = [f"{recipe}, {RECIPES[recipe]}{words and ': '}{words}" for recipe, words in recipes.items()]
    recipe = "Options to begin with; those that are given beside it count.\n" + ";\n".join(told)
    return make_dataclass(
        f"Train{model.__name__}",
        [
            ("recipe", Annotated[Train.__annotations__["recipe"], tyro.conf.arg(help=recipe)], field(default=None)),
            *(
                (
                    each.name,
                    Annotated[each.type, tyro.conf.arg(help=each.text)],
                    field(default=model.defaults.get(each.name, each.default)),
                )
                for each in own
            ),
            *((each, types[each], field(default=model.defaults[each])) for each in known if each in model.defaults),
        ],
        bases=(base,),
        namespace={
            "__doc__": (model.__doc__ or name).partition("\n\n")[0],
            "model": model,
            "own": tuple(each.name for each in own),
            "boxes": {"model": ("recipe", *others)} | Train.boxes,
        },
        frozen=True,
        kw_only=True,
    )


_made: Callable[..., type[Train]] = cache(options_class)


class _Models(Mapping[str, type[Train]]):
    """Made when they are first asked for: of each model in ``fastgen.models.NAMES``."""

    def __getitem__(self, name: str) -> type[Train]:
        return _made(name, models.NAMES[name])

    def __iter__(self) -> Iterator[str]:
        return iter(models.NAMES)

    def __len__(self) -> int:
        return len(models.NAMES)


MODELS = _Models()
"""The options of every model, by its name on the command line."""


def options_of(run: Run) -> Train:
    """The options that a run was started with.

    Raises:
        ValueError: its config.json has others than its model takes.
    """
    config = run.config()
    listed = config["options"].items()  # JSON has lists only
    known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in listed}
    try:
        return MODELS[config["model"]["name"]](**known)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run.folder / 'config.json'}: {error}") from error
