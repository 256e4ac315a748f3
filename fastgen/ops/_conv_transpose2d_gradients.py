"""The gradients of transposed convolutions that are ops of ours, whichever form computed the result."""

from collections.abc import Sequence

from torch import Tensor

from . import conv2d_image, conv2d_weight, winograd
from ._records import Convolution


def gradients(
    grad: Tensor, x: Tensor, convolution: Convolution, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None] | None:
    """To x and the weight, where they are wanted; None where torch's are the fastest."""
    if conv2d_image.reads(grad, x, convolution):
        return conv2d_image.gradients_of_transposed(grad, x, convolution, wanted)
    if winograd.doubles(x, convolution):
        return winograd.gradients_of_large(grad, x, convolution.weight, [*wanted[:2], False])[:2]
    return conv2d_weight.gradients_of_transposed(grad, x, convolution, wanted)
