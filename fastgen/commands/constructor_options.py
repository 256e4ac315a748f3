"""A model's options from its constructor: names, types and defaults by the signature, help texts by the docstring.

What a model reads from its data is no option: ``in_channels``, ``levels``, ``image_size``, the map that it is told, and
``classes``; where these may be None, ``--conditional`` asks for them. The model's page says the rest:
``Model.arguments``, ``Model.by_color``.
"""

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, NamedTuple, get_args, get_type_hints

from ..models import Model
from .boxes import help_texts

OF_THE_DATA = ("in_channels", "levels", "image_size", "classes", "condition_shape", "subsampled")
"""Arguments that the data say."""


class Option(NamedTuple):
    """An option as the command line has it."""

    name: str
    type: Any
    default: Any
    text: str


def options_of_model(model: type[Model]) -> list[Option]:
    """Options in the constructor's order.

    An argument that is a dataclass stands for its fields.
    One that ``model.arguments`` returns is no option unless it takes one of this name, which then counts. An
    option that it alone has stands behind the one it takes before that, or else first.

    Raises:
        TypeError: an argument has no type or no default.
    """
    taken, hook = arguments_of(model), arguments_of(model.arguments)
    hidden = {*OF_THE_DATA, *model.arguments()} - {*hook}
    order, last = [name for name in taken if name not in hidden or name == "classes"], -1
    for name in hook:
        if name not in taken:
            order.insert(last + 1, name)
        last = order.index(name)
    texts = help_texts(model) | help_texts(model.arguments)
    options = []
    for name in order:
        kind, default = hook.get(name) or taken[name]
        text = _sentence(texts.get(name, ""))
        if name == "classes":
            if type(None) in get_args(kind):
                options.append(Option("conditional", bool, False, "Condition on the images' labels."))
        elif name in model.by_color:
            text = f"{text.rstrip('.')}; default: {default}, or a little above."
            options.append(Option(name, kind | None, None, text))
        elif (record := record_of(kind)) is not None:
            said = help_texts(record)
            options += [Option(n, k, d, _sentence(said.get(n, ""))) for n, (k, d) in arguments_of(record).items()]
        elif name not in OF_THE_DATA:
            options.append(Option(name, kind, default, text))
    return options


def record_of(kind: Any) -> Any:
    """The dataclass that an argument's type is, or may be: its fields are options, and it is made of these."""
    return next((each for each in (kind, *get_args(kind)) if inspect.isclass(each) and is_dataclass(each)), None)


def arguments_of(call: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Type and default of every argument by name, but for the likes of ``*args``.

    Raises:
        TypeError: one has no type or no default.
    """
    types = get_type_hints(call.__init__ if inspect.isclass(call) else call)
    found = {}
    for name, each in inspect.signature(call).parameters.items():
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            continue
        if each.default is each.empty or name not in types:
            raise TypeError(f"{call.__qualname__}: expected a type and a default of {name}, which is an option")
        found[name] = types[name], each.default
    return found


def _sentence(text: str) -> str:
    """A docstring's text as help: no backticks, and a capital first, but for a symbol's sake."""
    text = text.replace("`", "")
    word = text.split(maxsplit=1)[0].strip(",;:") if text else ""
    return text if len(word) == 1 and word != "a" else text[:1].upper() + text[1:]
