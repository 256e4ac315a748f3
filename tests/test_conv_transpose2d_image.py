"""conv_transpose2d_image: the last layer of a generator, all phases of an image as columns of one product."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.ops import conv_transpose2d as forms
from fastgen.ops import conv_transpose2d_products as module
from fastgen.ops._activations import ACTIVATIONS
from fastgen.ops._records import NONE, Activation, Convolution
from ops import assert_gradients, assert_op_parity, assert_opcheck, assert_raises, assert_runs, ops_run
from parity import DTYPES, assert_parity, channels_last, contiguous
from test_conv_transpose2d_products import CASES, sizes
from transposed import arguments, options, pair

OP = torch.ops.fastgen.conv_transpose2d_image.default
#: As in DCGAN, and sides of which the result has an odd number, or less than one stride.
IMAGES: dict[str, Any] = {
    **CASES,
    "to an image": ((5, 19, 3, 6, 5), (4, 2, 1, 0, 1, 1)),
    "to one channel": ((3, 64, 1, 7, 7), (4, 2, 1, 0, 1, 1)),
    "whole strides": ((2, 7, 4, 3, 9), ((6, 3), (2, 3), (5, 0), (1, 2), 1, 1)),
    "less than a stride": ((2, 5, 2, 2, 1), ((1, 2), (4, 4), (1, 0), (0, 3), 1, 1)),
}


@pytest.mark.parametrize("case", IMAGES.values(), ids=IMAGES)
def test_parity(case: Any) -> None:
    """By every dtype, layout and activation, with a bias and without; by one thread and by two."""
    for dtype, activation in zip(
        (torch.float32, torch.bfloat16, torch.float16, torch.float32), ACTIVATIONS, strict=True
    ):
        x, weight, bias, *_ = arguments(case, dtype)
        for (image, layout), given in itertools.product(
            ((contiguous, channels_last), (channels_last, contiguous)), (bias, None)
        ):
            inputs = (image(x), layout(weight), given, *sizes(case), activation, 0.2)
            assert_op_parity(OP, module.conv_transpose2d_image_reference, *inputs)
    threads, inputs = torch.get_num_threads(), (x, weight, bias, *sizes(case), "tanh", 0.0)
    one = OP(*inputs)
    try:
        torch.set_num_threads(3 - threads if threads < 3 else 1)
        assert torch.equal(OP(*inputs), one)
    finally:
        torch.set_num_threads(threads)


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    case = IMAGES["to an image"]
    x, weight, bias, *_ = arguments(case)
    whole = OP(x, weight, bias, *sizes(case), "tanh", 0.0)
    for n in range(5):
        assert torch.equal(OP(x[n : n + 1], weight, bias, *sizes(case), "tanh", 0.0)[0], whole[n])
    assert OP(x[:0], weight, bias, *sizes(case), "none", 0.0).shape == (0, 3, 12, 10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_and_registration(activation: str) -> None:
    case = IMAGES["to an image"]
    x, weight, bias, *_ = arguments(case)
    named = options(case)

    def eager(*inputs: Tensor) -> Tensor:
        y = F.conv_transpose2d(*inputs, **named)
        return {"relu": F.relu, "tanh": torch.tanh, "leaky_relu": lambda t: F.leaky_relu(t, 0.2)}.get(
            activation, lambda t: t
        )(y)

    assert_gradients((OP,), lambda *inputs: OP(*inputs, *sizes(case), activation, 0.2), eager, x, weight, bias)
    weight.requires_grad_()
    assert_opcheck(
        OP, *((layout(x), weight, bias, *sizes(case), activation, 0.2) for layout in (contiguous, channels_last))
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_no_number(activation: str) -> None:
    """Infinities and NaN are what they are in torch, and where."""
    x, weight = torch.randn(1, 1, 3, 3), torch.ones(1, 2, 2, 2)
    x[0, 0, 0], x[0, 0, 2, 2] = torch.tensor([float("inf"), float("-inf"), float("nan")]), float("-inf")
    geometry = ([2, 2], [0, 0], [0, 0])
    expected = module.conv_transpose2d_image_reference(x, weight, None, *geometry, activation, 0.2)
    torch.testing.assert_close(OP(x, weight, None, *geometry, activation, 0.2), expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_runs_where_it_is_an_image(dtype: torch.dtype) -> None:
    """With kernels of whole strides; not in float64, of many channels, elsewhere."""
    case = IMAGES["to an image"]
    x, weight, bias, *_ = arguments(case, dtype)
    layer = Convolution(weight, bias, [2, 2], [1, 1], [0, 0], [1, 1], 1)
    tanh = Activation("tanh")
    with assert_runs(OP, backward=False):
        y = forms.conv_transpose2d(x, layer, tanh)
    eager = torch.tanh(F.conv_transpose2d(x, weight, bias, **options(case)))
    exact = torch.tanh(F.conv_transpose2d(x.double(), weight.double(), bias.double(), **options(case)))
    assert_parity(y, eager, exact)
    wide, odd = torch.randn(19, 5, 4, 4, dtype=dtype), torch.randn(19, 3, 5, 4, dtype=dtype)
    for other in (
        layer._replace(weight=wide, bias=None), layer._replace(weight=odd), layer._replace(dilation=[2, 1]),
        layer._replace(stride=[1, 1]),
    ):  # fmt: skip
        assert not module.is_image(x, other)
        with ops_run() as ran:
            forms.conv_transpose2d(x, other, NONE)
        assert "conv_transpose2d_image" not in ran
    assert not module.is_image(x.double(), layer)
    assert not module.is_image(x.to("meta"), layer)
    assert not module.is_image(x, layer._replace(groups=19))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((2, 8, 4, 4), (8, 3, 16, 16), 16, 0),
        ((1, 2, 3, 3), (2, 1, 66, 66), 2, 0),
        ((4, 128, 4, 4), (128, 32, 65, 65), 1, 32),
    ],
    ids=["patches", "a large kernel to an image", "a large kernel of features"],
)
def test_what_the_ops_refuse_is_torchs(size: Any, kernel: Any, stride: int, padding: int) -> None:
    """More numbers of a block or more taps than they take: a decoder of patches has 768."""
    x, weight = torch.randn(size), torch.randn(kernel) / 100
    layer = Convolution(weight, None, pair(stride), pair(padding), [0, 0], [1, 1], 1)
    with ops_run() as ran:
        y = forms.conv_transpose2d(x, layer)
    assert not ran
    torch.testing.assert_close(y, F.conv_transpose2d(x, weight, None, stride, padding))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(5, 130, 4, 4), (3, 1, 2, 5), (70, 7, 3, 3), (2, 19, 4, 6)])
def test_a_weight_in_channels_last(size: tuple[int, ...], dtype: torch.dtype) -> None:
    op, weight = torch.ops.fastgen.conv_transpose2d_weight.default, torch.randn(size).to(dtype)
    for given in (weight, weight.transpose(2, 3)):
        assert torch.equal(op(given), given)
        assert op(given).is_contiguous(memory_format=torch.channels_last)
    assert_opcheck(op, (weight,))
    convolution = Convolution(torch.randn(3, 5, 3, 3), None, [2, 2], [1, 1], [0, 0], [1, 1], 1)
    x = torch.randn(9, 3, 7, 7)
    with torch.no_grad(), assert_runs(op, backward=False):
        y = forms.conv_transpose2d(x, convolution)
    torch.testing.assert_close(y, F.conv_transpose2d(x, convolution.weight, None, 2, 1))
    with pytest.raises(RuntimeError, match=r"weight: expected shape \(I, O, KH, KW\)"):
        op(torch.randn(2, 2))


def test_a_direct_call_is_checked() -> None:
    x, w, two, one, none = torch.randn(2, 3, 4, 4), torch.randn(3, 5, 4, 4), pair(2), pair(1), pair(0)
    wrong = [
        ((x.double(), w.double(), None, two, one, none, "none", 0.0), "x: expected float32, float16 or bfloat16"),
        ((x.long(), w, None, two, one, none, "none", 0.0), "x: expected float32"),
        ((x, w.bfloat16(), None, two, one, none, "none", 0.0), "weight: expected"),
        ((x, w, w[0, 0, 0], two, one, none, "none", 0.0), "bias: expected"),
        ((x, w, None, [8, 8], one, none, "none", 0.0), "stride: expected at most 256 numbers of a block"),
        ((x, w, None, two, one, [2, 0], "none", 0.0), "output_padding: expected less than stride"),
        ((x, w, None, two, one, none, "sigmoid", 0.0), "activation: expected none, relu, leaky_relu or tanh, got sig"),
    ]
    assert_raises((lambda args=args: OP(*args), RuntimeError, message) for args, message in wrong)
