"""Calls with one argument made wrong: does the error say which, and what was expected?

``sweep(call, arguments)`` takes a callable and good arguments, replaces one argument at a time by bad ones of its kind
(a tensor of another rank, size, dtype, layout or device, text for a number, a negative size, …) and sorts what comes.
"""

import math
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


@dataclass(frozen=True)
class Bad:
    """A value to call with.

    ``never``: it means nothing, whatever the argument is for: to take it is a silent fault.
    """

    words: str
    value: Any
    never: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of one call.

    ``kind``: "works"; "clear", a ValueError or TypeError that begins with the name of an argument of this call and a
    colon; "unclear", any other error; "silent", no error where the value means nothing; "crash", an error of the
    machinery behind (a SystemError, an internal assertion). A process that dies is seen by whoever runs this.
    """

    argument: str
    bad: str
    kind: str
    message: str = ""

    def __str__(self) -> str:
        return f"{self.argument} = {self.bad}: {self.kind}: {self.message}"


def sweep(
    call: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    optional: Collection[str] = (),
    skip: Collection[str] = (),
    names: Collection[str] = (),
    seed: int = 0,
) -> list[Outcome]:
    """Call ``call(**arguments)`` with every bad value in place of every argument, one at a time.

    Args:
        call: fresh copies of tensors are passed to each call, so it may write into them.
        arguments: with which it works.
        optional: arguments for which None is a good value.
        skip: arguments that stay as they are.
        names: words other than the arguments' names by which an error may begin.
        seed: of the tensors that are drawn at random.
    """
    call(**_copied(arguments))
    rng = random.Random(seed)
    named = re.compile(rf"\b({'|'.join(map(re.escape, [*arguments, *names]))})\b")
    outcomes = []
    for name, good in arguments.items():
        if name in skip:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bads = [bad for bad in bad_values(good, rng) if bad.value is not None or name not in optional]
        for bad in bads:
            outcomes.append(_try(call, {**_copied(arguments), name: bad.value}, name, bad, named))
    return outcomes


def assert_clear(outcomes: Iterable[Outcome]) -> None:
    """No crash, nothing senseless accepted, and less than one error in a hundred that names no argument."""
    outcomes = list(outcomes)
    count = Counter(outcome.kind for outcome in outcomes)
    faults = [str(one) for one in outcomes if one.kind in ("crash", "silent", "unclear")]
    said = f"of {len(outcomes)}: {dict(count)}\n" + "\n".join(faults)
    assert count["crash"] == count["silent"] == 0, said
    assert count["unclear"] < 0.01 * len(outcomes), said


def _copied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return dict(tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), dict(arguments)))


def _try(call: Callable[..., Any], arguments: dict[str, Any], name: str, bad: Bad, named: re.Pattern[str]) -> Outcome:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(**arguments)
    except Exception as error:  # every error is what is looked at
        message = str(error).split("\n")[0][:200]
        head, colon, _ = message.partition(":")
        if isinstance(error, (SystemError, RecursionError)) or "INTERNAL ASSERT" in str(error):
            kind = "crash"
        elif isinstance(error, (ValueError, TypeError)) and colon and named.search(head):
            kind = "clear"
        else:
            kind = "unclear"
        return Outcome(name, bad.words, kind, f"{type(error).__name__}: {message}")
    return Outcome(name, bad.words, "silent" if bad.never else "works")


# ---- bad values of every kind


def bad_values(good: Any, rng: random.Random) -> Iterator[Bad]:
    """Values in place of ``good``, by what that is."""
    yield from _senseless(good)
    if isinstance(good, Tensor):
        yield from _bad_tensors(good, rng)
    elif isinstance(good, str):
        yield from (Bad(repr(text), text) for text in ("", good.swapcase(), f"{good} ", b"text", [good], 0))
    elif isinstance(good, bool):
        yield from (Bad(repr(value), value) for value in (2, -1, "yes", "", [], 0.5, math.nan, np.bool_(good)))
    elif isinstance(good, (int, float)):
        yield from _bad_numbers(good)
    elif isinstance(good, (tuple, list)):
        kind = type(good)
        yield from (Bad(repr(value), value) for value in (kind(), kind([*good] * 3), kind([None] * len(good))))
        for number in _bad_numbers(good[0]) if good and isinstance(good[0], (int, float)) else ():
            value = kind([number.value, *good[1:]])
            yield Bad(f"{kind.__name__} of {number.words}", value, number.never)
            yield number


def _senseless(good: Any) -> Iterator[Bad]:
    """What no argument of that kind can be."""
    text = isinstance(good, str)
    yield Bad("None", None)
    yield Bad("'text'", "text", never=not text)
    yield Bad("an object", object(), never=True)
    yield Bad("a dict", {"a": 1}, never=not isinstance(good, dict))
    yield Bad("a class", type(good), never=True)
    yield Bad("1j", 1j, never=True)
    yield Bad("a function", len, never=not callable(good))


def _bad_numbers(good: Any) -> Iterator[Bad]:
    """``good`` as text, as other kinds of numbers, and numbers outside of any range."""
    yield Bad(f"the text {good}", str(good), never=True)
    for value in (-1, 0, -(2**40), 2**63, 2**70, -0.5, 1.5, 1e400, -1e400, math.nan, True, np.bool_(True)):
        yield Bad(repr(value), value)
    for value in (np.int64(good), np.int32(good), np.float32(good), np.float64(math.nan), np.int64(-3)):
        yield Bad(repr(value), value)
    yield Bad("a list", [good] * 3)
    yield Bad("a tensor", torch.tensor(good))
    yield Bad("an array", np.array([good, good, good]))


DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex32, torch.complex64),
    *(torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
]


def _bad_tensors(good: Tensor, rng: random.Random) -> Iterator[Bad]:
    shape = tuple(good.shape)
    yield Bad("2.5", 2.5)
    yield Bad("a list", good.tolist())
    yield Bad("an array", good.detach().float().numpy() if good.dtype == torch.bfloat16 else good.detach().numpy())
    yield Bad("[tensor]", [good])
    yield Bad("no tensor at all", torch.Tensor, never=True)
    yield from (Bad(str(dtype), good.to(dtype)) for dtype in DTYPES)
    yield Bad("complex, conjugated", good.to(torch.complex64).conj())
    yield Bad("meta", good.to("meta"))
    if good.is_floating_point() and good.dim() > 0:
        yield Bad("sparse", good.to_sparse())
        yield Bad("quantised", torch.quantize_per_tensor(good.detach().float(), 0.1, 0, torch.quint8))
        yield Bad("sparse, mostly zeros", torch.zeros_like(good).to_sparse())
    yield Bad("one dimension more", good[None])
    yield Bad("one dimension more at the end", good[..., None])
    yield Bad("a scalar", good.flatten()[0] if good.numel() else good.new_zeros(()))
    yield Bad("flat", good.flatten())
    for dim in range(good.dim()):
        for size in {0, 1, 2, shape[dim] + 1, max(0, shape[dim] - 1)} - {shape[dim]}:
            other = (*shape[:dim], size, *shape[dim + 1 :])
            yield Bad(f"shape {other} for {shape}", good.new_ones(other))
        yield Bad(f"without dimension {dim}", good.select(dim, 0) if shape[dim] else good.new_zeros(shape[:dim]))
    for _ in range(12):
        drawn = tuple(rng.choice((0, 1, 2, 3, 4, 7)) for _ in range(rng.randrange(6)))
        dtype = rng.choice((*DTYPES[:9], good.dtype))
        yield Bad(f"{dtype} of shape {drawn}", torch.ones(drawn, dtype=dtype))
