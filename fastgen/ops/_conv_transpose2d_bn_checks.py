"""Argument checks of conv_transpose2d_bn: each error names the argument, what was expected and what came."""

from typing import Any

from torch import Tensor

from ._dtypes import check_floating

ACTIVATIONS = ("none", "relu", "leaky_relu", "tanh")


def check_activation(activation: str, negative_slope: float) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    if negative_slope < 0:
        raise ValueError(
            f"negative_slope: expected at least 0 (its gradient is taken from the result), got {negative_slope}"
        )


def pair(name: str, value: Any, least: int) -> list[int]:
    """``value`` or (value, value), as a list."""
    both = [value, value] if isinstance(value, int) else list(value)
    if len(both) != 2 or any(not isinstance(one, int) or one < least for one in both):
        raise ValueError(f"{name}: expected one or two integers of at least {least}, got {value!r}")
    return both


def check_shapes(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: list[Any]) -> None:
    stride, _padding, output_padding, dilation, groups = geometry
    if weight.dim() != 4:
        raise ValueError(f"weight: expected shape (I, O / groups, KH, KW), got {tuple(weight.shape)}")
    I = weight.shape[0]
    if not isinstance(groups, int) or groups < 1 or I % groups:
        raise ValueError(f"groups: expected a divisor of the {I} input channels, got {groups!r}")
    if x.dim() != 4 or x.shape[1] != I:
        raise ValueError(f"x: expected shape (N, {I}, H, W) to fit the weight, got {tuple(x.shape)}")
    if bias is not None and bias.shape != (weight.shape[1] * groups,):
        raise ValueError(f"bias: expected shape ({weight.shape[1] * groups},), got {tuple(bias.shape)}")
    for i in range(2):
        if output_padding[i] >= max(stride[i], dilation[i]):
            raise ValueError(
                f"output_padding: expected less than stride {tuple(stride)} or dilation {tuple(dilation)}, "
                f"got {tuple(output_padding)}"
            )


def check_dtypes(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_floating("x", x)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(f"{name}: expected the dtype of x, {x.dtype}, got {tensor.dtype}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name}: expected the device of x, {x.device}, got {tensor.device}")


def check_batch_norm(
    channels: int,
    vectors: dict[str, Tensor | None],
    training: bool,
    momentum: float | None,
    num_batches_tracked: Tensor | None,
) -> None:
    """``vectors``: bn_weight, bn_bias, running_mean, running_var by name."""
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (channels,):
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
