"""The Triton kernels of masked_conv2d: in the interpreter on a machine without a GPU, as they are on one with."""

from itertools import cycle

import pytest
import torch
from torch import Tensor

from fastgen.ops import masked_conv2d_mask
from fastgen.ops import masked_conv2d_triton as kernels
from fastgen.ops.masked_conv2d import masked_conv2d_backward_reference, masked_conv2d_reference
from fastgen.ops.masked_conv2d_triton import masked_conv2d_backward_triton, masked_conv2d_triton
from ops import assert_op_parity, assert_raises, cuda_kernel
from parity import LAYOUTS

OP = torch.ops.fastgen.masked_conv2d.default
BACKWARD = torch.ops.fastgen.masked_conv2d_backward.default
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def innermost(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


#: N, I, O, H, W, KH, KW; mask, activation, colours: every activation under both masks, every way to lay out k
CASES = (
    ((0, 3, 6, 3, 3, 3, 3), ("B", "relu", 1, "contiguous")),
    ((1, 1, 1, 1, 1, 1, 1), ("B", "none", 1, "contiguous")),
    ((1, 1, 2, 1, 1, 1, 1), ("A", "gated", 1, "contiguous")),  # no live tap at all
    ((2, 1, 5, 5, 7, 7, 7), ("A", "elu", 1, "contiguous")),
    ((1, 3, 6, 4, 4, 1, 3), ("B", "elu", 3, "contiguous")),
    ((2, 3, 12, 5, 7, 3, 5), ("A", "gated", 3, "interleaved")),
    ((1, 6, 6, 1, 1, 7, 7), ("B", "concat_elu", 1, "contiguous")),
    ((2, 16, 18, 3, 5, 3, 3), ("A", "concat_elu", 2, "interleaved")),
    ((1, 48, 72, 4, 3, 3, 3), ("B", "gated", 3, "contiguous")),  # a tap has several steps, and is padded
    ((1, 23, 37, 5, 3, 3, 1), ("A", "relu", 1, "contiguous")),
    ((3, 34, 132, 3, 11, 3, 3), ("B", "none", 2, "contiguous")),  # several tiles of pixels, columns and k
)


def arguments(shape: tuple[int, ...], activation: str, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """x, weight, bias, residual."""
    N, I, O, H, W, KH, KW = shape
    channels = {"concat_elu": 2 * O, "gated": O // 2}.get(activation, O)
    sizes = ((N, I, H, W), (O, I, KH, KW), (O,), (N, channels, H, W))
    x, weight, bias, residual = (torch.randn(size, device=device, dtype=dtype) for size in sizes)
    return x, weight / (I * KH * KW) ** 0.5, bias, residual


@pytest.mark.parametrize(("case", "layout"), list(zip(CASES, cycle((*LAYOUTS, innermost)), strict=False)))
@pytest.mark.parametrize("dtype", DTYPES)
def test_parity(case, layout, dtype: torch.dtype, triton_device: str) -> None:
    shape, options = case
    x, weight, bias, residual = arguments(shape, options[1], dtype, triton_device)
    x, residual = layout(x), layout(residual)
    if layout is innermost:
        weight = innermost(weight)
    for one_bias, one_residual, save in ((bias, residual, True), (None, None, False))[: 1 + (dtype == torch.float32)]:
        args = (x, weight, one_bias, one_residual, *options, save)
        assert_op_parity(OP, masked_conv2d_reference, *args, kernel=masked_conv2d_triton)
    pre = masked_conv2d_reference(x, weight, bias, None, *options, True)[1]
    args = (layout(torch.randn_like(residual)), pre, x, weight, *options)
    assert_op_parity(
        BACKWARD, masked_conv2d_backward_reference, *args, [True] * 3, kernel=masked_conv2d_backward_triton
    )


@pytest.mark.parametrize("layout", [Tensor.contiguous, innermost])
def test_parity_at_a_real_size(layout, triton_device: str) -> None:
    x, weight, bias, residual = arguments((2, 3, 66, 28, 28, 7, 7), "gated", torch.float32, triton_device)
    options = ("A", "gated", 3, "contiguous")
    args = (layout(x), weight, bias, layout(residual), *options, True)
    assert_op_parity(OP, masked_conv2d_reference, *args, kernel=masked_conv2d_triton)


def test_only_what_is_asked_for(triton_device: str) -> None:
    x, weight, bias, residual = arguments((2, 3, 6, 4, 5, 3, 3), "elu", torch.float32, triton_device)
    options = ("B", "elu", 1, "contiguous")
    pre = masked_conv2d_reference(x, weight, bias, None, *options, True)[1]
    for wanted in ([True, False, False], [False, True, False], [False, False, True]):
        assert_op_parity(
            BACKWARD, masked_conv2d_backward_reference, residual, pre, x, weight, *options, wanted,
            kernel=masked_conv2d_backward_triton,
        )  # fmt: skip


def test_float64_is_the_reference(triton_device: str) -> None:
    x, weight, bias, residual = arguments((1, 3, 6, 4, 5, 3, 3), "gated", torch.float64, triton_device)
    args = (x, weight, bias, residual, "B", "gated", 3, "contiguous", True)
    assert all(map(torch.equal, cuda_kernel(OP)(*args), masked_conv2d_reference(*args)))


def test_dead_taps_have_no_gradient_and_no_influence(triton_device: str) -> None:
    x, weight, bias, residual = arguments((2, 6, 6, 5, 5, 5, 5), "none", torch.float32, triton_device)
    for layout in (Tensor.contiguous, innermost):
        for groups in (1, 3):
            options = ("B", "none", groups, "contiguous")
            mask = masked_conv2d_mask(weight, *options)
            _, grad, _ = masked_conv2d_backward_triton(residual, x, x, layout(weight), *options, [False, True, False])
            assert (grad[mask == 0] == 0).all()
            assert (grad[mask == 1] != 0).all()
            poisoned = torch.where(mask == 0, float("nan"), weight)
            results = [masked_conv2d_triton(x, layout(w), bias, None, *options, False)[0] for w in (poisoned, weight)]
            assert torch.equal(*results)


def test_one_tap_too_many_is_noticed(triton_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: were one dead tap taken for live, parity would fail in the forward and in every gradient."""
    x, weight, bias, residual = arguments((2, 16, 16, 5, 5, 3, 3), "none", torch.float32, triton_device)
    options, live_taps = ("B", "none", 1, "contiguous"), kernels.live_taps
    monkeypatch.setattr(kernels, "live_taps", lambda *args: live_taps(*args)._replace(TAPS=6))
    args = (x, weight, bias, residual, *options, False)
    with pytest.raises(AssertionError, match="error"):
        assert_op_parity(OP, masked_conv2d_reference, *args, kernel=masked_conv2d_triton)
    for wanted in ([True, False, False], [False, True, False]):
        args = (residual, x, x, weight, *options, wanted)
        with pytest.raises(AssertionError, match="error"):
            assert_op_parity(BACKWARD, masked_conv2d_backward_reference, *args, kernel=masked_conv2d_backward_triton)


def test_the_same_call_gives_the_same_bits(triton_device: str) -> None:
    x, weight, bias, residual = arguments((2, 8, 16, 12, 11, 3, 3), "relu", torch.float32, triton_device)
    options = ("B", "relu", 1, "contiguous")
    runs = []
    for _ in range(2):
        y, pre = masked_conv2d_triton(x, weight, bias, residual, *options, True)
        runs.append((y, pre, *masked_conv2d_backward_triton(residual, pre, x, weight, *options, [True] * 3)))
    assert all(map(torch.equal, *runs))


def test_errors() -> None:
    huge = torch.empty(1, 64, 1 << 13, 1 << 13, device="meta")
    weight = torch.empty(64, 64, 3, 3, device="meta")
    call = lambda: masked_conv2d_triton(huge, weight, None, None, "B", "none", 1, "contiguous", False)  # noqa: E731
    assert_raises([(call, ValueError, r"x: expected images of fewer than 2\^31 elements, got 128 channels of 8192")])
