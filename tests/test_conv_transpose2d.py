"""conv_transpose2d: torch's transposed convolution in the form that suits its geometry, and its gradients."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.ops import _dtypes
from fastgen.ops import conv_transpose2d as module
from fastgen.ops._records import Convolution
from fastgen.ops.conv_transpose2d import (
    check_convolution,
    conv_transpose2d,
    conv_transpose2d_backward,
    is_product,
    result_shape,
    runs_in_float32,
)
from ops import assert_raises, exact
from parity import DTYPES, assert_parity, channels_last, contiguous
from transposed import CASES, REAL, arguments, options, pair

#: Few pixels of many channels: a product, whose taps are added where they belong.
SCATTERED = {
    "doubling": ((3, 512, 5, 4, 4), (4, 2, 1, 0, 1, 1)),
    "any": ((2, 512, 3, 3, 5), ((3, 5), (2, 3), (1, 2), (1, 0), (1, 2), 1)),
}
#: As many pixels in more images are none.
MANY = ((9, 512, 5, 4, 4), (4, 2, 1, 0, 1, 1))


def convolution(case: Any, weight: Tensor, bias: Tensor | None = None) -> Convolution:
    return Convolution(weight, bias, *map(pair, case[1][1:5]), case[1][5])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*CASES.values(), REAL, *SCATTERED.values(), MANY])
def test_parity(case: Any, dtype: torch.dtype, device: str) -> None:
    x, weight, bias, *_ = arguments(case, dtype, device)
    for layout, given in itertools.product((contiguous, channels_last), (bias, None)):
        y = conv_transpose2d(x, convolution(case, layout(weight), given))
        eager = F.conv_transpose2d(x, weight, given, **options(case))
        scattered = device == "cpu" and case in SCATTERED.values() and layout is contiguous
        assert module.is_scattered(x, convolution(case, layout(weight))) == scattered
        assert y.shape == eager.shape == result_shape(x, convolution(case, weight))
        assert_parity(y, eager, F.conv_transpose2d(*exact((x, weight, given)), **options(case)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*CASES.values(), REAL])
def test_gradients(case: Any, dtype: torch.dtype, device: str) -> None:
    """Each alone, and all: what is not asked for is None."""
    x, weight, bias, *_ = arguments(case, dtype, device)
    grad = torch.randn_like(F.conv_transpose2d(x, weight, bias, **options(case)))

    def by_autograd(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in inputs]
        return torch.autograd.grad(F.conv_transpose2d(*leaves, **options(case)), leaves, grad)

    eager, truth = by_autograd(grad, x, weight, bias), by_autograd(*exact((grad, x, weight, bias)))
    masks = ([True] * 3, [True, False, False], [False, True, False], [False, False, True])
    for mask, layout in [*((mask, contiguous) for mask in masks), ([True] * 3, channels_last)]:
        results = conv_transpose2d_backward(grad, x, convolution(case, layout(weight)), mask)
        for wanted, result, one, two in zip(mask, results, eager, truth, strict=True):
            assert (result is not None) == wanted
            if result is not None:
                assert_parity(result, one, two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32_where_nothing_multiplies_them(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one rounding at the end, forward and backward."""
    x, weight, *_ = arguments(REAL, dtype)
    for multiplies in (False, True):
        monkeypatch.setattr(module, "multiplies", lambda dtype, multiplies=multiplies: multiplies)
        assert runs_in_float32(x) != multiplies
    monkeypatch.setattr(module, "multiplies", lambda dtype: False)
    assert not runs_in_float32(x.float())
    half, single = (convolution(REAL, w) for w in (weight, weight.float()))
    found = conv_transpose2d(x.float(), single).to(dtype)
    assert torch.equal(conv_transpose2d(x, half), found)
    for given in (half, single._replace(bias=torch.zeros(half.channels))):  # weights as autocast finds them
        with torch.autocast("cpu", dtype):
            assert torch.equal(conv_transpose2d(x, given), found)
    grad = torch.randn(result_shape(x, half)).to(dtype)
    results = conv_transpose2d_backward(grad, x, half, [True] * 3)
    expected = conv_transpose2d_backward(grad.float(), x.float(), single, [True] * 3)
    for one, two in zip(results, expected, strict=True):
        assert one is not None
        assert two is not None
        assert torch.equal(one, two.to(dtype))


def test_which_products_of_halves_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a matrix unit's, and by AVX2 only where torch has none; oneDNN's own limit is one of torch's."""
    paying = {(True, True, False), (False, True, False), (False, False, False)}
    for multiplied, avx512, amx in itertools.product((True, False), repeat=3):
        monkeypatch.setitem(_dtypes._MULTIPLIED, torch.bfloat16, multiplied)
        monkeypatch.setattr(_dtypes, "_HAS_AVX512", avx512)
        monkeypatch.setattr(_dtypes, "_HAS_AMX", amx)
        assert _dtypes.pairs_pay() == ((multiplied, avx512, amx) in paying)
    for name, value in (("ONEDNN_MAX_CPU_ISA", "avx2"), ("DNNL_MAX_CPU_ISA", "AVX2_VNNI")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not any(_dtypes._multiplied().values())
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "ALL")
    assert _dtypes._multiplied()[torch.bfloat16] == torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_a_biass_gradient_is_summed_in_cascades(device: str) -> None:
    """Pixel by pixel a float loses digits: 20,000 terms of one sign."""
    grad = torch.rand(2, 3, 100, 100, device=device)
    x, weight = torch.randn(2, 5, 100, 100, device=device), torch.randn(5, 3, 3, 3, device=device)
    same = Convolution(weight, None, [1, 1], [1, 1], [0, 0], [1, 1])
    bias = conv_transpose2d_backward(grad, x, same, [False, False, True])[2]
    assert bias is not None
    assert_parity(bias, grad.sum((0, 2, 3)), grad.double().sum((0, 2, 3)))


def test_one_pixel_without_padding_is_a_product() -> None:
    weight = torch.empty(3, 5, 4, 4)
    product = Convolution(weight, None, [1, 1], [0, 0], [0, 0], [1, 1])
    assert is_product(torch.empty(2, 3, 1, 1), product)
    assert not is_product(torch.empty(2, 3, 1, 2), product)
    for field, value in (("padding", [1, 1]), ("output_padding", [0, 1]), ("dilation", [2, 1]), ("groups", 3)):
        assert not is_product(torch.empty(2, 3, 1, 1), product._replace(**{field: value}))


def test_checks() -> None:
    x, weight = torch.empty(2, 3, 4, 4), torch.empty(3, 5, 4, 4)
    checked = check_convolution(x, Convolution(weight, None, 2, (1, 0)))
    assert checked.geometry == ([2, 2], [1, 0], [0, 0], [1, 1], 1)
    many = [
        (x[0], Convolution(weight, None), r"x: expected shape \(N, 3, H, W\) to fit the weight, got \(3, 4, 4\)"),
        (x, Convolution(weight[..., :0], None), "weight: expected at least one input channel and one tap, got"),
        (x, Convolution(weight, None, dilation=0), "dilation: expected one or two integers of at least 1, got 0"),
        (
            x,
            Convolution(weight, None, ([2], 2)),
            r"stride: expected one or two integers of at least 1, got \(\[2\], 2\)",
        ),
        (
            x,
            Convolution(weight, None, 2, (1.0, 0.0)),
            "padding: expected one or two integers",
        ),  # as (1, 0), seen before
        (x, Convolution(weight, weight[0, :4, 0, 0]), r"bias: expected shape \(5,\), got \(4,\)"),
    ]
    assert_raises((lambda x=x, c=c: check_convolution(x, c), ValueError, message) for x, c, message in many)
