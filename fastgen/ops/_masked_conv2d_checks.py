"""Argument checks of masked_conv2d: each error names the argument, what was expected and what came."""

from torch import Tensor

from .._checks import check_integer, check_option, check_same
from ._dtypes import check_dense, check_floating

MASKS = ("A", "B")
ACTIVATIONS = ("none", "relu", "elu", "concat_elu", "gated")
GROUPS_ORDERS = ("contiguous", "interleaved")


def check_options(mask: str, activation: str, color_groups: int, groups_order: str, doubled: bool = True) -> None:
    """``doubled``: whether the result's channels, twice as many for "concat_elu", are to have colours too."""
    check_option("mask", mask, MASKS)
    check_option("activation", activation, ACTIVATIONS)
    check_option("groups_order", groups_order, GROUPS_ORDERS)
    check_integer("color_groups", check_integer("color_groups", color_groups, 1), 1, 2**31 - 1)
    if doubled and activation == "concat_elu" and color_groups > 1 and groups_order == "contiguous":
        raise ValueError(
            "groups_order: expected 'interleaved' with activation 'concat_elu' and several colours "
            "(doubling the channels would put two colours into one contiguous part), got 'contiguous'"
        )


def check_weight(weight: Tensor) -> None:
    if check_dense("weight", weight).dim() != 4 or weight.shape[2] % 2 == 0 or weight.shape[3] % 2 == 0:
        raise ValueError(f"weight: expected shape (O, I, KH, KW) with odd KH and KW, got {tuple(weight.shape)}")


def check_channels(in_channels: int, out_channels: int, activation: str, color_groups: int) -> None:
    if in_channels < 1 or out_channels < 1:
        raise ValueError(f"weight: expected at least one channel on either side, got ({out_channels}, {in_channels})")
    if activation == "gated" and out_channels % 2:
        raise ValueError(f"weight: expected an even number of output channels for 'gated', got {out_channels}")
    half = out_channels // 2 if activation == "gated" else out_channels
    if in_channels % color_groups or half % color_groups:
        raise ValueError(
            f"color_groups: expected a divisor of the {in_channels} input channels and of the {half} output channels"
            f"{' of each half of the gate' if activation == 'gated' else ''}, got {color_groups}"
        )


def check_taps(weight: Tensor, mask: str, activation: str, color_groups: int, groups_order: str) -> None:
    """What the kernels ask of a weight and its options, however they are called."""
    check_options(mask, activation, color_groups, groups_order, doubled=False)
    check_weight(weight)
    check_channels(weight.shape[1], weight.shape[0], activation, color_groups)


def check_masked_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: str,
    activation: str,
    residual: Tensor | None,
    color_groups: int,
    groups_order: str,
) -> None:
    check_options(mask, activation, color_groups, groups_order)
    check_floating("x", x)
    check_same("weight", check_dense("weight", weight), "x", x)
    for name, tensor in (("bias", bias), ("residual", residual)):
        if tensor is not None:
            check_same(name, check_dense(name, tensor), "x", x)
    check_weight(weight)
    O, I = weight.shape[:2]
    if x.dim() != 4 or x.shape[1] != I:
        raise ValueError(f"x: expected shape (N, {I}, H, W) to fit the weight, got {tuple(x.shape)}")
    if bias is not None and bias.shape != (O,):
        raise ValueError(f"bias: expected shape ({O},), got {tuple(bias.shape)}")
    check_channels(I, O, activation, color_groups)
    if residual is not None:
        channels = {"concat_elu": 2 * O, "gated": O // 2}.get(activation, O)
        expected = (x.shape[0], channels, *x.shape[2:])
        if residual.shape != expected:
            raise ValueError(f"residual: expected the shape of the result, {expected}, got {tuple(residual.shape)}")
