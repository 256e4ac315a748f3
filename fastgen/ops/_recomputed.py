"""Gradients of an op by its reference: where they are to be differentiated once more, or read what the op has kept."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._dtypes import without_autocast


def gradients_by(
    reference: Callable[..., Any],
    inputs: Sequence[Tensor | None],
    options: Sequence[Any],
    needs: Sequence[bool],
    arrived: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Of ``inputs`` that need one, by a forward of ``reference`` and autograd.

    ``arrived``: the gradients of its results; None where none has.
    """
    with torch.enable_grad(), without_autocast(arrived):
        # each under a name of its own: two inputs may be one tensor, or one made of another
        own = [None if each is None else each.view_as(each) for each in inputs]
        results = reference(*own, *options)
    asked = [each for each, need in zip(own, needs, strict=True) if need and each is not None]
    read = [(result, grad) for result, grad in zip(results, arrived, strict=True) if grad is not None]
    given = torch.autograd.grad(
        [result for result, _ in read], asked, [grad for _, grad in read], create_graph=torch.is_grad_enabled(),
        allow_unused=True,
    )  # fmt: skip
    found = iter(given)
    return [next(found) if need else None for need in needs]
