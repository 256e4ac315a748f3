"""Options for tyro: a flat dataclass with a box of ``--help`` for each group of its fields, and values as words."""

import re
from collections.abc import Mapping
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, get_type_hints

from .._extras import require


def grouped(kind: Any, title: str, default: Any = None) -> Any:
    """A dataclass for tyro, whose attribute ``options``, once it was read from a command line, is a ``kind``.

    Args:
        kind: a dataclass whose ``boxes`` has the names of its fields by group, as they are to be shown.
        title: what a value that ``kind`` refuses is an error of.
        default: a ``kind`` with other defaults than its own.

    Raises:
        ValueError: a field is in no box, or in two.
    """
    known = {each.name: each for each in fields(kind)}
    texts: dict[str, str] = help_texts(kind)
    types: dict[str, Any] = get_type_hints(kind, include_extras=True)
    placed = [name for names in kind.boxes.values() for name in names]
    if odd := {name for name in {*placed, *known} if placed.count(name) != (name in known)}:
        raise ValueError(f"boxes: expected each option of {kind.__name__} in one, got {', '.join(sorted(odd))}")
    arg = require("tyro").conf.arg
    shown: list[Any] = []
    for group, names in kind.boxes.items():
        options: list[Any] = []
        for name in names:
            value = known[name].default if default is None else getattr(default, name)
            told = any(getattr(each, "help", None) for each in getattr(types[name], "__metadata__", ()))
            flat = arg(prefix_name=False, help=None if told else texts.get(name))
            annotated: Any = Annotated  # a type that is only known now
            options.append((name, annotated[types[name], flat], field(default=value)))
        box = make_dataclass(group, options, kw_only=True)
        shown.append((group, Annotated[box, arg(help="")], field(default_factory=box)))

    def finish(read: Any) -> None:
        boxed = ((name, getattr(read, group)) for group, names in kind.boxes.items() for name in names)
        read.options = kind(**{name: getattr(box, name) for name, box in boxed})

    return make_dataclass(title, shown, kw_only=True, namespace={"__post_init__": finish, "__doc__": kind.__doc__})


def help_texts(kind: Any) -> dict[str, str]:
    """What a class or a function says of each name: below fields, or in ``Args``; a class before its bases.

    Lines are joined but for those that end with a colon or semicolon, as the items of a list do.
    """
    parse = require("docstring_parser").parse_from_object
    texts: dict[str, str] = {}
    for each in reversed(getattr(kind, "__mro__", (kind, object))[:-1]):
        said = {one.arg_name: one.description for one in parse(each).params}
        joined = {name: re.sub(r"(?<![:;\s])\s*\n\s*", " ", text) for name, text in said.items() if text}
        texts |= {name: re.sub(r"\n\s+", "\n", text) for name, text in joined.items()}
    return texts


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Options by name as the words of a command line."""
    words: list[str] = []
    for option, value in options.items():
        word = "--" + {"source": "from"}.get(option, option).replace("_", "-")
        if isinstance(value, bool):
            words.append(word if value else f"--no-{word[2:]}")
        elif str(value).startswith("-"):
            words.append(f"{word}={value}")
        else:
            words += [word, *map(str, value if isinstance(value, list | tuple) else [value])]
    return words
