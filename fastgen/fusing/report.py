"""What fuse did: a table of what was swapped, and of what was looked at and left, with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from .swap import restore
from .worth import RULE


@dataclass(frozen=True)
class Swapped:
    """Attributes: the modules' ``path``; what they were; what runs now; what differs, or ""."""

    path: str
    was: str
    now: str
    note: str = ""


@dataclass(frozen=True)
class Left:
    """Attributes: the module's ``path``; what it is; why it was not swapped."""

    path: str
    what: str
    reason: str


@dataclass
class FuseReport:
    """What one call of ``fastgen.fuse`` did. ``str()`` is a table; ``undo()`` takes the swaps back.

    Attributes:
        swapped: one entry for each op that runs instead of modules.
        left: what was looked at and not swapped.
    """

    swapped: list[Swapped] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    _modules: list[tuple[str, nn.Module]] = field(default_factory=list, repr=False, compare=False)

    def undo(self) -> None:
        """Give every module that this call swapped its own class back. What is undone already stays as it is.

        Raises:
            ValueError: the class of one was changed again since, as registering a parametrization does.
        """
        restore(self._modules)

    def __str__(self) -> str:
        lines = ["nothing was swapped"]
        notes = list(dict.fromkeys(entry.note for entry in self.swapped if entry.note))
        if self.swapped:
            marks = {note: f" [{number}]" for number, note in enumerate(notes, 1)}
            rows = [(each.path or "model", each.was, each.now + marks.get(each.note, "")) for each in self.swapped]
            lines = _table([("swapped", "was", "runs now"), *rows])
            lines += [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
            lines.append(RULE)
        if self.left:
            alike: dict[tuple[str, str], list[str]] = {}
            for each in self.left:
                alike.setdefault((each.what, each.reason), []).append(each.path or "model")
            rows = [(_some(paths), *same) for same, paths in alike.items()]
            lines += ["", *_table([("left", "is", "because"), *rows])]
        return "\n".join(lines)


def _some(paths: list[str]) -> str:
    """All of a few; of many, the first and how many."""
    return ", ".join(paths) if len(paths) <= 4 else f"{', '.join(paths[:3])} and {len(paths) - 3} more"


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = tuple("─" * width for width in widths)
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (rows[0], rule, *rows[1:])]
