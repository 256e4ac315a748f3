"""What products multiply: numbers as they are, or rounded to 16 bits. Sums of them are not."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16", "float16"]
#: As a plan's codes count them: SamplePrecision of csrc/sample_plan.h.
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
_OF_LARGER_RANGE: tuple[Precision, ...] = ("bfloat16", "float32")


def rounded(x: Tensor, precision: Precision) -> Tensor:
    """The nearest numbers that ``precision`` has, ties to even, in the dtype of ``x``; infinity beyond the largest."""
    return x if precision == "float32" else x.to(getattr(torch, precision)).to(x)


def beyond(precision: Precision) -> str:
    """What an error about numbers that are not finite adds: the model's own may have been."""
    return "; float16 has none beyond 65504, 'bfloat16' has" if precision == "float16" else ""


def check_weights(weights: Iterable[tuple[str, Tensor]], precision: Precision) -> None:
    """Raise where a weight would be rounded to infinity, and with it everything that it is multiplied by.

    Args:
        weights: those that are rounded, each with the name of its layer.
        precision: what they are rounded to.

    Raises:
        ValueError: names the layer, the weight, and a precision that has it.
    """
    for layer, weight in weights:
        lost = weight.isfinite() & ~rounded(weight, precision).isfinite()
        if lost.any():
            value = max(weight[lost], key=abs)
            having = next(each for each in _OF_LARGER_RANGE if rounded(value, each).isfinite())
            raise ValueError(
                f"precision: expected weights that {precision} has, up to "
                f"{torch.finfo(getattr(torch, precision)).max:.6g}, got {value.item():.6g} in {layer or 'a layer'}: "
                f"{having!r} has it"
            )
