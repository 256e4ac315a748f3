"""What a model reads for a value: one of a few mappings, named by a word, or a function of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_number, describe
from ..distributions import Distribution

#: The words, and what each makes of values in [0, levels).
WORDS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "[-1, 1]": lambda values, levels: values.to(torch.float32).mul(2 / (levels - 1)).sub(1),  # as Distribution.to_input
    "[0, 1]": lambda values, levels: values.to(torch.float32) / (levels - 1),
    "[0, 255]": lambda values, levels: values.to(torch.float32),
    "integers": lambda values, levels: values.to(torch.float32),
    "one-hot": lambda values, levels: _one_hot(values, levels),
}

ToInput = Callable[[Tensor], Tensor] | str | tuple[Any, Any]


@dataclass(frozen=True, eq=False)
class Inputs:
    """A table of what the model reads for each value; called, it maps values (N, C, H, W) to inputs (N, C·k, H, W).

    Attributes:
        name: the word, or what the function is called.
        table: float32 (C, levels, k), k channels for each colour: 1, or as many as there are levels.
    """

    name: str
    table: Tensor

    @property
    def channels(self) -> int:
        """K, in how many channels one colour is read."""
        return self.table.shape[2]

    def __call__(self, values: Tensor) -> Tensor:
        table, color = self.table.to(values.device), torch.arange(self.table.shape[0], device=values.device)
        looked_up = table[color[:, None, None], values.to(torch.int64)]  # (N, C, H, W, k)
        return looked_up.permute(0, 1, 4, 2, 3).flatten(1, 2)

    def __str__(self) -> str:
        """The name, and what the first and the last value become: [-1, 1] (0 → -1, 255 → 1)."""
        levels = self.table.shape[1]
        return f"{self.name} (0 → {self._entry(0)}, {levels - 1} → {self._entry(levels - 1)})"

    def _entry(self, value: int) -> str:
        colors = self.table[:, value]
        entries = (colors if (colors != colors[:1]).any() else colors[:1]).flatten().tolist()
        shown = ", ".join(f"{entry:.4g}" for entry in entries[:4]) + (", …" if len(entries) > 4 else "")
        return shown if len(entries) == 1 else f"({shown})"


def inputs_of(model: nn.Module, colors: int, distribution: Any, to_input: Any) -> Inputs:
    """What ``model`` reads, as a caller states it or as the model itself does.

    Args:
        model: one that has ``to_input`` says itself what it reads; so does one whose ``distribution`` is of one's own
            making and has a ``to_input``. To have one of fastgen's distributions says nothing of its training data.
        colors: C.
        distribution: of a pixel value. One of one's own, with a ``to_input`` of its own, states the mapping.
        to_input: a word of :data:`WORDS`, a pair (mean, std), a function, or None to ask the model.

    Raises:
        TypeError: nobody says, or ``to_input`` is none of these.
        ValueError: an unknown word, one that does not fit the levels, a function that is not elementwise, or another
            mapping than the model's own.
    """
    own = _own(model, distribution)
    if to_input is None and own is None:
        raise TypeError(
            f"to_input: expected {_choices()}, since {type(model).__name__} does not say itself what it reads for a "
            f"value: state how its training data were scaled; got None"
        )
    inputs = _inputs(own if to_input is None else to_input, colors, distribution.levels)
    if to_input is not None and own is not None:
        stated = _inputs(own, colors, distribution.levels)
        if not torch.equal(stated.table, inputs.table):
            itself = f"what {type(model).__name__} itself says that it reads"
            raise ValueError(f"to_input: expected None or {itself}, {stated}, got {inputs}")
    return inputs


def _inputs(to_input: Any, colors: int, levels: int) -> Inputs:
    if isinstance(to_input, Inputs):
        return to_input
    if isinstance(to_input, str):
        return _named(to_input, colors, levels)
    if isinstance(to_input, tuple | list):
        return _standardised(to_input, colors, levels)
    if not callable(to_input):
        raise TypeError(f"to_input: expected {_choices()}, got {describe(to_input)}")
    return _tabulated(to_input, colors, levels)


def _own(model: nn.Module, distribution: Any) -> Any:
    """What the model states, or a distribution that is not fastgen's; None if nobody does."""
    theirs: Any = getattr(model, "distribution", None)
    if theirs is None or getattr(theirs, "levels", None) == distribution.levels:  # else it reads other values
        own = getattr(model, "to_input", None)
        if own is not None:
            return own
    for each in filter(None, (theirs, distribution)):
        if getattr(type(each), "to_input", Distribution.to_input) is not Distribution.to_input:
            return each.to_input
    return None


def _choices() -> str:
    return f"one of {', '.join(map(repr, WORDS))}, a pair (mean, std) as data in [0, 1] are standardised, or a function"


def _named(word: str, colors: int, levels: int) -> Inputs:
    if word not in WORDS:
        raise ValueError(f"to_input: expected {_choices()}, got {word!r}")
    if word == "[0, 255]" and levels != 256:
        raise ValueError(f"to_input: expected 'integers' or another word for {levels} levels, got '[0, 255]'")
    table = WORDS[word](torch.arange(levels).view(1, 1, levels, 1), levels)[0]  # (k, levels, 1)
    return Inputs(word, table[:, :, 0].t().expand(colors, -1, -1).contiguous())


def _one_hot(values: Tensor, levels: int) -> Tensor:
    """Each colour as ``levels`` channels side by side."""
    return torch.nn.functional.one_hot(values, levels).to(torch.float32).movedim(-1, 2).flatten(1, 2)


def _standardised(pair: Sequence[Any], colors: int, levels: int) -> Inputs:
    if len(pair) != 2:
        raise ValueError(f"to_input: expected a pair (mean, std), got {len(pair)} of them")
    mean, std = (_per_color(name, each, colors) for name, each in zip(("mean", "std"), pair, strict=True))
    if any(each <= 0 for each in std):
        raise ValueError(f"to_input: expected positive standard deviations, got {std}")
    scaled = torch.arange(levels, dtype=torch.float32) / (levels - 1)
    table = torch.stack([(scaled - m) / s for m, s in zip(mean, std, strict=True)])
    return Inputs(f"mean {_short(mean)}, std {_short(std)}", table[:, :, None])


def _per_color(name: str, numbers: Any, colors: int) -> list[float]:
    if isinstance(numbers, Tensor):
        numbers = numbers.tolist()
    numbers = list(numbers) if isinstance(numbers, list | tuple) else [numbers] * colors
    if len(numbers) != colors:
        raise ValueError(f"to_input: expected one {name} or {colors}, one for each colour, got {len(numbers)}")
    return [float(check_number(f"to_input: {name}", number)) for number in numbers]


def _short(numbers: list[float]) -> str:
    return f"{numbers[0]:.4g}" if len(set(numbers)) == 1 else f"({', '.join(f'{number:.4g}' for number in numbers)})"


def _tabulated(function: Callable[[Tensor], Tensor], colors: int, levels: int) -> Inputs:
    """A function as a table, if it is elementwise: of each value of each colour alone, the same every time."""
    every = torch.arange(levels).view(levels, 1, 1, 1).repeat(1, colors, 1, 1)
    name = getattr(function, "__qualname__", type(function).__name__)
    mapped = function(every)
    if not isinstance(mapped, Tensor) or mapped.dim() != 4 or mapped.shape[1] % colors or len(mapped) != levels:
        got = tuple(mapped.shape) if isinstance(mapped, Tensor) else type(mapped).__name__
        raise ValueError(f"to_input: expected a function from (N, {colors}, H, W) to (N, k·{colors}, H, W), got {got}")
    table = mapped.detach()[:, :, 0, 0].unflatten(1, (colors, -1)).transpose(0, 1).to("cpu", torch.float32).contiguous()
    found = Inputs(name, table)
    for word in WORDS:
        if word != "[0, 255]" or levels == 256:
            known = _named(word, colors, levels)
            if torch.equal(known.table, table):
                found = known
                break
    mixed = torch.randint(levels, (4, colors, 3, 2), generator=torch.Generator().manual_seed(0))
    seen = function(mixed)
    if seen.shape != found(mixed).shape or not torch.equal(seen.to("cpu", torch.float32), found(mixed)):
        raise ValueError(
            f"to_input: expected an elementwise function, since values are drawn one by one; {name} is none: what it "
            "makes of a value depends on other values, or on chance"
        )
    return found


def dtype_and_device_of(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Those of a model's inputs."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.dtype, parameter.device
    return torch.get_default_dtype(), torch.device("cpu")
