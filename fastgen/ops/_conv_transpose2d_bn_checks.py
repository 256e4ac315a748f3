"""Argument checks of conv_transpose2d_bn: each error names the argument, what was expected and what came."""

from typing import Any

from torch import Tensor

from .._checks import check_device, check_integer, check_number, check_option, check_pair, check_same, describe
from ._dtypes import check_dense, check_floating

ACTIVATIONS = ("none", "relu", "leaky_relu", "tanh")


def check_activation(activation: str, negative_slope: float) -> None:
    check_option("activation", activation, ACTIVATIONS)
    if check_number("negative_slope", negative_slope) < 0:
        raise ValueError(
            f"negative_slope: expected at least 0 (its gradient is taken from the result), got {negative_slope}"
        )


def pair(name: str, value: Any, least: int) -> list[int]:
    """``value`` or (value, value), as a list."""
    try:
        both = check_pair(name, value, least)
        return [check_integer(name, one, least, 2**31 - 1) for one in both]
    except ValueError:
        raise ValueError(f"{name}: expected one or two integers of at least {least}, got {describe(value)}") from None


def check_weight(weight: Tensor) -> None:
    if weight.dim() != 4:
        raise ValueError(f"weight: expected shape (I, O / groups, KH, KW), got {tuple(weight.shape)}")
    if weight.shape[0] == 0 or 0 in weight.shape[2:]:
        raise ValueError(f"weight: expected at least one input channel and one tap, got {tuple(weight.shape)}")


def check_shapes(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: list[Any]) -> None:
    stride, _padding, output_padding, dilation, groups = geometry
    check_floating("x", x)
    check_floating("weight", weight)
    check_weight(weight)
    I = weight.shape[0]
    if I % check_integer("groups", groups, 1):
        raise ValueError(f"groups: expected a divisor of the {I} input channels, got {groups!r}")
    if x.dim() != 4 or x.shape[1] != I or 0 in x.shape[2:]:
        raise ValueError(f"x: expected shape (N, {I}, H, W) to fit the weight, got {tuple(x.shape)}")
    if bias is not None and check_dense("bias", bias).shape != (weight.shape[1] * groups,):
        raise ValueError(f"bias: expected shape ({weight.shape[1] * groups},), got {tuple(bias.shape)}")
    for i in range(2):
        if output_padding[i] >= max(stride[i], dilation[i]):
            raise ValueError(
                f"output_padding: expected less than stride {tuple(stride)} or dilation {tuple(dilation)}, "
                f"got {tuple(output_padding)}"
            )


def check_dtypes(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_floating("x", x)
    check_same("weight", weight, "x", x)
    check_same("bias", bias, "x", x)


def check_batch_norm(
    x: Tensor,
    channels: int,
    vectors: dict[str, Tensor | None],
    training: bool,
    momentum: float | None,
    num_batches_tracked: Tensor | None,
) -> None:
    """``vectors``: bn_weight, bn_bias, running_mean, running_var by name."""
    if momentum is not None:
        check_number("momentum", momentum)
    for name, vector in vectors.items():
        if vector is None:
            continue
        check_floating(name, vector)
        check_device(name, vector, "x", x)
        if vector.shape != (channels,):
            raise ValueError(f"{name}: expected shape ({channels},), got {tuple(vector.shape)}")
    if (vectors["running_mean"] is None) != (vectors["running_var"] is None):
        raise ValueError("running_mean, running_var: expected both or neither, got one")
    if not training and vectors["running_mean"] is None:
        raise ValueError("running_mean: expected a tensor when training is False, got None")
    if training and momentum is None and vectors["running_mean"] is not None and num_batches_tracked is None:
        raise ValueError("num_batches_tracked: expected a tensor when momentum is None, got None")


def check_count(shape: tuple[int, ...], count: int, synchronised: bool) -> None:
    """As torch: one value has no variance. Of several processes, one may well hold a single value, or none."""
    if not synchronised and count == 1:
        raise ValueError(f"x: expected more than 1 value per channel when training, got a result of size {shape}")
