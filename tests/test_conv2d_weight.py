"""conv2d_weight and conv2d_bfloat16: convolutions in bfloat16, and their gradients to the weight, of pairs."""

from itertools import cycle
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from fastgen.ops import conv2d_weight as module
from fastgen.ops._dtypes import multiplies, pairs_pay
from fastgen.ops._records import NONE, Activation, Convolution, result_sides
from fastgen.ops.conv_transpose2d import conv_transpose2d, conv_transpose2d_backward
from ops import (
    assert_compiles,
    assert_gradients,
    assert_no_forward_mode,
    assert_op_parity_over,
    assert_opcheck,
    assert_raises,
    assert_runs,
    ops_run,
    with_threads,
)
from parity import channels_last, contiguous, sliced

OP, WEIGHT = torch.ops.fastgen.conv2d_bfloat16.default, torch.ops.fastgen.conv2d_weight.default
LEAKY = Activation("leaky_relu", 0.25)
# N, I, O, H, W, kernel, stride, padding
SHAPES: dict[str, tuple[Any, ...]] = {
    "an encoder's": (5, 32, 64, 14, 14, (4, 4), (2, 2), (1, 1)),
    "a discriminator's last": (17, 48, 80, 8, 8, (4, 4), (2, 2), (1, 1)),
    "results in rows of blocks": (3, 16, 17, 80, 66, (3, 3), (1, 2), (1, 1)),
    "blocks of images": (67, 16, 16, 10, 9, (2, 2), (2, 2), (0, 0)),
    "a row of many": (2, 4, 5, 3, 1100, (2, 3), (1, 1), (0, 1)),
    "channels and a rest": (4, 5, 70, 9, 11, (3, 2), (2, 1), (1, 0)),
    "no side like the other": (2, 2, 7, 9, 10, (3, 6), (1, 3), (2, 0)),
    "strides over what is not read": (3, 1, 9, 11, 13, (2, 3), (5, 4), (0, 1)),
    "a border wider than what is read": (2, 2, 6, 2, 3, (2, 4), (1, 2), (3, 7)),
    "taps for more than an item": (3, 2, 3, 9, 9, (7, 9), (1, 1), (3, 4)),
    "one pixel": (7, 2, 1, 1, 1, (1, 1), (1, 1), (0, 0)),
    "no image": (0, 4, 5, 4, 4, (4, 4), (2, 2), (1, 1)),
}
needs_pairs = pytest.mark.skipif(not pairs_pay(), reason="chosen on CPUs that multiply pairs of bfloat16")


def arguments(shape: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor, list[int], list[int], list[int]]:
    """image, weight, bias, a gradient of the result, all of numbers that bfloat16 has; kernel, stride and padding."""
    N, I, O, H, W, *sizes = shape
    kernel, stride, padding = map(list, sizes)
    h, w = result_sides((H, W), *sizes)
    weight = torch.randn(O, I, *kernel) / (I * kernel[0] * kernel[1]) ** 0.5
    tensors = [each.bfloat16() for each in (torch.randn(N, I, H, W), weight, torch.randn(O), torch.randn(N, O, h, w))]
    return *tensors, kernel, stride, padding  # type: ignore[return-value]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: tuple[Any, ...]) -> None:
    """In every layout, with a bias and without; the same by any number of threads, and of what lies in any layout."""
    image, weight, bias, grad, kernel, *sizes = arguments(shape)
    pairs = [(one(image), other(grad), kernel, *sizes) for one in (contiguous, channels_last, sliced)
             for other in (channels_last, sliced)]  # fmt: skip
    assert_op_parity_over(pairs, WEIGHT, module.conv2d_weight_reference)
    kinds = cycle((NONE, LEAKY, Activation("relu"), Activation("tanh")))
    found = [with_threads(threads, lambda: WEIGHT(image, grad, kernel, *sizes)) for threads in (1, 2, 7)]
    assert all(torch.equal(found[0], other) for other in [*found[1:], *(WEIGHT(*pair) for pair in pairs)])
    if shape[1] % 2:
        return
    wide = weight + 1e-3 * torch.randn(weight.shape)  # in float32, with more digits
    weights = (weight, channels_last(weight), sliced(weight), wide, channels_last(wide))
    batches = [(layout(image), wide, read, one, *sizes, *next(kinds))
               for layout in (contiguous, channels_last, sliced) for read in weights
               for one in (bias, bias.float().repeat_interleave(2)[::2], None)]  # fmt: skip
    assert_op_parity_over(batches, OP, module.conv2d_bfloat16_reference)
    rounded, halves = ((channels_last(image), wide, read, bias, *sizes, *LEAKY) for read in (wide, wide.bfloat16()))
    found = [with_threads(threads, lambda: OP(*rounded)) for threads in (1, 2, 7)]
    assert all(torch.equal(found[0], other) for other in [*found[1:], OP(*halves)])
    for n in range(0, shape[0], 3):
        assert torch.equal(OP(rounded[0][n : n + 1], *rounded[1:])[0], found[0][n])


def test_sums_are_of_exact_products() -> None:
    """In float32: of whole numbers nothing is rounded at all."""
    image, grad = (torch.randint(-16, 17, shape).bfloat16() for shape in ((9, 20, 12, 10), (9, 33, 6, 5)))
    found = WEIGHT(image, grad, [4, 4], [2, 2], [1, 1])
    assert found.dtype == torch.float32
    expected = module.conv2d_weight_reference(image.double(), grad.double(), [4, 4], [2, 2], [1, 1])
    assert torch.equal(found.double(), expected)


def test_what_is_not_a_number() -> None:
    """Of an image stays where it is read; of a gradient it is in the gradients of all taps."""
    image, _, _, grad, *sizes = arguments((3, 2, 4, 8, 8, (4, 4), (2, 2), (1, 1)))
    image[1, 0, 5, 3], image[2, 1, 7, 0] = torch.inf, torch.nan
    found, expected = (f(image, grad, *sizes) for f in (WEIGHT, module.conv2d_weight_reference))
    torch.testing.assert_close(found, expected, equal_nan=True)
    grad[1, 3, 0, 0] = torch.inf
    assert not WEIGHT(image, grad, *sizes)[3].isfinite().any()


@pytest.mark.parametrize("name", ["an encoder's", "a discriminator's last", "no side like the other", "one pixel"])
@pytest.mark.parametrize("kind", [NONE, LEAKY])
def test_gradients(name: str, kind: Activation) -> None:
    """Of all, and of each that is the only one to ask; parameters in float32 get theirs in float32."""
    image, weight, bias, _, _, *sizes = arguments(SHAPES[name])
    ours = lambda *args: module.conv2d_bfloat16(*args, *sizes, kind)  # noqa: E731
    eager = lambda *args: F.leaky_relu(F.conv2d(*args, *sizes), kind.slope if kind is LEAKY else 1.0)  # noqa: E731
    for layout in (contiguous, channels_last):
        assert_gradients((OP, WEIGHT), ours, eager, layout(image), layout(weight), bias)
    for i in range(3):
        leaves = [t.clone().requires_grad_(i == j) for j, t in enumerate((channels_last(image), weight.float(), bias))]
        with ops_run() as ran:
            (found,) = torch.autograd.grad(ours(*leaves).sum(), leaves[i])
        laid_out = kind is LEAKY and name != "one pixel"  # which is in any layout
        ops = {"conv2d_bfloat16", *["conv2d_weight"] * (i == 1), *["activation_backward"] * laid_out}
        assert ran - {"conv_transpose2d_products"} == ops
        exact = [t.detach().double().requires_grad_() for t in leaves]
        (expected,) = torch.autograd.grad(eager(*exact).sum(), exact[i])
        assert (found.dtype, found.stride()) == (leaves[i].dtype, leaves[i].stride())
        torch.testing.assert_close(found.double(), expected, atol=0.02 * expected.abs().max().item(), rtol=0.01)


def test_second_order() -> None:
    image, weight, bias, grad, kernel, *sizes = arguments((3, 2, 5, 7, 6, (4, 4), (2, 2), (1, 1)))
    leaves = [t.detach().clone().requires_grad_() for t in (image, grad)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    found = torch.autograd.grad(WEIGHT(*leaves, kernel, *sizes).square().sum(), leaves)
    truth = torch.autograd.grad(module.conv2d_weight_reference(*exact, kernel, *sizes).square().sum(), exact)
    for one, right in zip(found, truth, strict=True):
        torch.testing.assert_close(one.double(), right, atol=0.02 * right.abs().max().item(), rtol=0.01)

    def twice(convolve: Any, dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.detach().to(dtype).requires_grad_() for t in (image, weight, bias)]
        once = torch.autograd.grad(convolve(*leaves, *sizes).pow(3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(torch.stack([each.float().square().sum() for each in once]).sum(), leaves)

    with assert_runs(OP, WEIGHT, backward=False):
        found = twice(module.conv2d_bfloat16, torch.bfloat16)
    for one, truth in zip(found, twice(F.conv2d, torch.float64), strict=True):
        torch.testing.assert_close(one.double(), truth, atol=0.03 * truth.abs().max().item(), rtol=0.03)


@needs_pairs
@pytest.mark.skipif(not multiplies(torch.bfloat16), reason="elsewhere it is differentiated in float32")
def test_a_transposed_convolution_is_differentiated_by_it() -> None:
    image, weight, _, x, _, stride, padding = arguments((9, 32, 64, 16, 20, (4, 4), (2, 2), (1, 1)))
    layer = Convolution(weight, torch.randn(32).bfloat16(), stride, padding, [0, 0], [1, 1], 1)
    ours = lambda x, *made: conv_transpose2d(x, Convolution(*made, *layer.geometry))  # noqa: E731
    eager = lambda *args: F.conv_transpose2d(*args, stride=2, padding=1)  # noqa: E731
    with assert_runs(OP, WEIGHT, backward=False):
        conv_transpose2d_backward(image, x, layer, [True, True, True])
    few = x[:, :, :7, :7]  # whose form is another, with the same gradients
    for made in (few, channels_last(few)):
        assert_gradients((OP, WEIGHT), ours, eager, made, weight, layer.bias)
    for other in (
        layer._replace(output_padding=[1, 0]), layer._replace(dilation=[2, 1]), layer._replace(stride=[2, 1]),
        layer._replace(groups=2, bias=None),
    ):  # fmt: skip
        grad = F.conv_transpose2d(x, *other[:5], other.groups, other.dilation)
        with ops_run() as ran:
            conv_transpose2d_backward(grad, x, other, [True, True, False])
        assert not ran
    with ops_run() as ran:
        assert conv_transpose2d_backward(image, x, layer, [True, False, False])[1] is None
    assert not ran
    assert module.gradients_of_transposed(image.float(), x, layer, [True, True]) is None
    assert module.gradients_of_transposed(image.double(), x.double(), layer, [True, True]) is None


def test_torch_knows_them() -> None:
    image, weight, bias, grad, kernel, *sizes = arguments((2, 4, 6, 7, 8, (4, 4), (2, 2), (1, 1)))
    wide, taps, one = image.requires_grad_(), weight.float().requires_grad_(), bias.float().requires_grad_()
    assert_opcheck(
        OP, (wide, taps, weight, one, *sizes, *LEAKY), (channels_last(wide), weight, weight, None, *sizes, *NONE)
    )
    assert_opcheck(WEIGHT, *((image, layout(grad), kernel, *sizes) for layout in (contiguous, channels_last)))
    assert_compiles((OP, WEIGHT), lambda *args: module.conv2d_bfloat16(*args, *sizes).tanh(), wide, taps, one)
    assert_no_forward_mode(lambda x: OP(x, weight, weight, None, *sizes, *NONE), image.detach())


def test_errors() -> None:
    """Of whoever calls an op past the layers that check."""
    image, weight, bias, grad, kernel, *sizes = arguments((2, 4, 6, 7, 8, (4, 4), (2, 2), (1, 1)))
    run = lambda *args: OP(*args, *NONE)  # noqa: E731
    add = lambda *args: WEIGHT(*args, *sizes)  # noqa: E731
    two = [2, 2]
    assert_raises(
        [
            (lambda: run(image.float(), weight, weight, None, *sizes), RuntimeError, r"image: expected \(N, I, H, W\)"),
            (lambda: run(image[0], weight, weight, None, *sizes), RuntimeError, r"image: expected \(N, I, H, W\)"),
            (lambda: run(image, weight[:, :2], weight, None, *sizes), RuntimeError, r"weight: expected \(O, 4, KH, KW"),
            (lambda: run(image, weight, weight[:2], None, *sizes), RuntimeError, "read: expected another shape"),
            (lambda: run(image, weight, weight.double(), None, *sizes), RuntimeError, "read: expected another dtype"),
            (lambda: run(image[:, :3], weight[:, :3], weight[:, :3], None, *sizes), RuntimeError, "an even number"),
            (lambda: run(*[torch.empty(1, 2, 65, 64).bfloat16()] * 3, None, *sizes), RuntimeError, "at most 4096 taps"),
            (lambda: run(image, weight, weight, bias[:2], *sizes), RuntimeError, "bias: expected another shape"),
            (lambda: run(image, weight, weight, bias.int(), *sizes), RuntimeError, "bias: expected float32"),
            (lambda: run(image, weight, weight, None, [0, 0], two), RuntimeError, "stride: expected at least 1"),
            (lambda: run(image, weight, weight, None, two, [-1, 0]), RuntimeError, "padding: expected at least 0"),
            (lambda: OP(image, weight, weight, None, *sizes, "gelu", 0.0), RuntimeError, "activation: expected none"),
            (lambda: add(image.float(), grad, kernel), RuntimeError, r"image: expected \(N, I, H, W\) in bfloat16"),
            (lambda: add(image, grad[0], kernel), RuntimeError, r"grad: expected \(N, O, h, w\)"),
            (lambda: add(image, grad[:, :, 1:], kernel), RuntimeError, "grad: expected another shape"),
            (lambda: add(image, grad.float(), kernel), RuntimeError, "grad: expected another dtype"),
            (lambda: add(image, grad, [0, 4]), RuntimeError, "kernel: expected at least 1"),
            (lambda: add(image, grad, [11, 4]), RuntimeError, "kernel: expected no more than"),
            (lambda: add(image[:, :0], grad, kernel), RuntimeError, "weight: expected a channel"),
            (lambda: WEIGHT(image, grad, [65, 64], two, [40, 40]), RuntimeError, "at most 4096 taps"),
        ]
    )  # fmt: skip


def test_sizes_that_do_not_fit() -> None:
    """Of a border, whose laid out numbers would be 2^64."""
    image, grad, step = torch.ones(1, 65536, 1, 1).bfloat16(), torch.ones(1, 1, 16, 16).bfloat16(), 1118481
    with pytest.raises(OverflowError, match="fits in 64 bits"):
        WEIGHT(image, grad, [1, 1], [step, step], [8388608, 8388608])


def test_where_it_pays() -> None:
    image = torch.randn(2, 16, 12, 12)
    geometry: dict[str, Any] = {"channels": 16, "kernel": [4, 4], "stride": [2, 2], "padding": [1, 1]}

    def ask(shape: tuple[int, ...] = (2, 16, 12, 12), **changed: Any) -> bool:
        return module.pays(shape, **{**geometry, **changed})

    assert ask()
    for shape in ((1, 16, 12, 12), (2, 15, 12, 12), (2, 16, 0, 12), (2, 16, 1, 12), (2, 16, 12)):
        assert not ask(shape)
    for wrong in (
        {"channels": 15}, {"stride": [1, 2]}, {"stride": [2, 1]}, {"kernel": [3, 5]}, {"padding": [8, 1]},
        {"kernel": [65, 64], "padding": [60, 60]},
    ):  # fmt: skip
        assert not ask(**wrong)
    assert module.runs(image, torch.bfloat16) == pairs_pay()
    with mock.patch.object(module, "pairs_pay", return_value=True):
        assert module.runs(image, torch.bfloat16)
        for other in (torch.float32, torch.float16, None):
            assert not module.runs(image, other)
        assert not module.runs(image.to("meta"), torch.bfloat16)
        with forward_ad.dual_level():
            assert not module.runs(image, torch.bfloat16)
        with mock.patch.object(torch.compiler, "is_exporting", return_value=True):
            assert not module.runs(image, torch.bfloat16)
        seen: list[bool] = []
        torch.vmap(lambda x: (seen.append(module.runs(x, torch.bfloat16)), x)[1])(torch.stack([image] * 2))
    assert seen == [False]
