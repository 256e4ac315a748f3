"""What a layer is, in three records: made once, handed on whole, and opened where an op's schema lists them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Convolution(NamedTuple):
    """A transposed convolution: ``weight`` (I, O / groups, KH, KW), ``bias`` (O,) or None, and its geometry.

    In the order of every schema; sizes are pairs once ``check_convolution`` has seen them.
    """

    weight: Tensor
    bias: Tensor | None
    stride: Any = 1
    padding: Any = 0
    output_padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    @property
    def geometry(self) -> tuple[Any, ...]:
        """Stride, padding, output_padding, dilation and groups."""
        return self[2:]

    @property
    def channels(self) -> int:
        """Of the result."""
        return self.weight.shape[1] * self.groups


class BatchNorm(NamedTuple):
    """A batch norm: vectors (O,) or None, of any floating dtype; ``training``: by the batch, not by ``running_*``."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None = None
    training: bool = False
    momentum: float | None = 0.1
    eps: float = 1e-5
    process_group: Any = None


class Activation(NamedTuple):
    """``name``: "none", "relu", "leaky_relu" or "tanh"; ``slope``: of "leaky_relu", at least 0."""

    name: str = "none"
    slope: float = 0.0


NONE = Activation()


def result_sides(
    sides: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> list[int]:
    """(h, w) of a convolution's result."""
    every = zip(sides, kernel, stride, padding, strict=True)
    return [(size + 2 * rim - tap) // step + 1 for size, tap, step, rim in every]
