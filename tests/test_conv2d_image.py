"""conv2d_image: the first convolution of an encoder or a discriminator, and what a transposed one to an image needs."""

from functools import partial
from itertools import cycle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from fastgen.models import DCGAN, VAE
from fastgen.nn import Conv2dChain
from fastgen.ops import conv2d_image as module
from fastgen.ops._dtypes import pairs_pay
from fastgen.ops._records import NONE, Activation, Convolution
from fastgen.ops.conv_transpose2d import conv_transpose2d, conv_transpose2d_backward
from ops import (
    assert_compiles,
    assert_gradients,
    assert_no_forward_mode,
    assert_op_parity_over,
    assert_opcheck,
    assert_raises,
    assert_runs,
    assert_second_order,
    ops_run,
    with_threads,
)
from parity import assert_parity, channels_last, contiguous, sliced

OP, WEIGHT = torch.ops.fastgen.conv2d_image.default, torch.ops.fastgen.conv2d_image_weight.default
LEAKY = Activation("leaky_relu", 0.3)
IMAGE = torch.ops.fastgen.conv_transpose2d_image.default
# N, I, O, H, W, kernel, stride, padding
SHAPES: dict[str, tuple[Any, ...]] = {
    "a discriminator's": (2, 3, 64, 32, 32, (4, 4), (2, 2), (1, 1)),
    "an encoder's": (5, 1, 32, 28, 28, (4, 4), (2, 2), (1, 1)),
    "channels and a rest": (3, 4, 37, 11, 13, (4, 4), (2, 2), (1, 1)),
    "a last band of fewer rows": (2, 2, 16, 46, 38, (4, 4), (2, 2), (1, 1)),
    "rows longer than a band": (2, 1, 5, 7, 311, (2, 2), (2, 2), (0, 0)),
    "patches": (2, 3, 24, 15, 9, (5, 3), (5, 3), (0, 0)),
    "no side like the other": (2, 2, 7, 9, 10, (3, 6), (1, 3), (2, 0)),
    "strides over what is not read": (2, 1, 9, 11, 13, (2, 3), (5, 4), (0, 1)),
    "a border wider than the kernel": (1, 2, 6, 2, 3, (2, 4), (1, 2), (3, 7)),
    "one pixel": (7, 1, 1, 1, 1, (1, 1), (1, 1), (0, 0)),
    "no image": (0, 3, 5, 4, 4, (4, 4), (2, 2), (1, 1)),
}


def arguments(shape: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor, list[int], list[int], list[int]]:
    """image, weight, bias, a gradient of the result; kernel, stride and padding."""
    N, I, O, H, W, *sizes = shape
    kernel, stride, padding = map(list, sizes)
    h, w = ((size + 2 * rim - tap) // step + 1 for size, tap, step, rim in zip((H, W), *sizes, strict=True))
    weight = torch.randn(O, I, *kernel) / (I * kernel[0] * kernel[1]) ** 0.5
    return torch.randn(N, I, H, W), weight, torch.randn(O), torch.randn(N, O, h, w), kernel, stride, padding


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: tuple[Any, ...]) -> None:
    """In every layout, with a bias and without; the same by any number of threads."""
    image, weight, bias, grad, kernel, *sizes = arguments(shape)
    every = bias.repeat_interleave(2)[::2]
    kinds = cycle((NONE, LEAKY, Activation("relu"), Activation("tanh"), NONE))
    batches = [(layout(image), layout(weight), one, *sizes, last, *next(kinds)) for layout in
               (contiguous, channels_last, sliced) for one in (every, None) for last in (True, False)]  # fmt: skip
    assert_op_parity_over(batches, OP, module.conv2d_image_reference)
    pairs = [(one(image), other(grad), kernel, *sizes) for one in (contiguous, sliced)
             for other in (channels_last, contiguous, sliced)]  # fmt: skip
    assert_op_parity_over(pairs, WEIGHT, module.conv2d_image_weight_reference)
    for i in range(2):
        found = [with_threads(threads, lambda i=i: (OP(*batches[i]), *WEIGHT(*pairs[i]))) for threads in (1, 2, 7)]
        for other in found[1:]:
            assert all(map(torch.equal, found[0], other))


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    image, weight, bias, _, _, *sizes = arguments(SHAPES["channels and a rest"])
    whole = OP(image, weight, bias, *sizes, True, *NONE)
    for n in range(3):
        assert torch.equal(OP(image[n : n + 1], weight, bias, *sizes, True, *NONE)[0], whole[n])


def test_what_is_not_a_number_stays_where_it_is_seen() -> None:
    image, weight, bias, _, _, *sizes = arguments((1, 2, 7, 12, 12, (4, 4), (2, 2), (1, 1)))
    image[0, 0, 5, 3], image[0, 1, 11, 0], image[0, 1, 0, 11] = torch.inf, torch.nan, -torch.inf
    expected = F.conv2d(image, weight, bias, 2, 1)
    torch.testing.assert_close(OP(image, weight, bias, *sizes, True, *NONE), expected, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "no image"])
def test_gradients(name: str) -> None:
    """Of all, and of each that is the only one to ask; an image's has its layout."""
    image, weight, bias, _, _, *sizes = arguments(SHAPES[name])
    ours, eager = lambda *args: module.conv2d_image(*args, *sizes, True), lambda *args: F.conv2d(*args, *sizes)
    for layout in (contiguous, channels_last):
        assert_gradients((OP, WEIGHT, IMAGE), ours, eager, layout(image), weight, bias)
        activated = lambda *args, last=layout is channels_last: module.conv2d_image(*args, *sizes, last, LEAKY)  # noqa: E731
        plain = lambda *args: F.leaky_relu(eager(*args), 0.3)  # noqa: E731
        assert_gradients((OP, WEIGHT, IMAGE), activated, plain, layout(image), weight, bias)
    for i, needed in enumerate((IMAGE, WEIGHT, WEIGHT)):
        leaves = [t.clone().requires_grad_(i == j) for j, t in enumerate((channels_last(image), weight, bias))]
        with ops_run() as ran:
            (found,) = torch.autograd.grad(ours(*leaves).square().sum(), leaves[i])
        assert ran == {"conv2d_image", needed._opname}
        (expected,) = torch.autograd.grad(eager(*leaves).square().sum(), leaves[i])
        assert found.stride() == leaves[i].stride()
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_second_order() -> None:
    """Each is differentiated by the others, so that gradients of all orders exist."""
    image, weight, bias, _, _, *sizes = arguments((2, 2, 5, 7, 6, (4, 4), (2, 2), (1, 1)))
    doubles = [t.double() for t in (image, weight, bias)]
    assert_second_order(lambda *args: module.conv2d_image_reference(*args, *sizes, True, *LEAKY), *doubles)
    leaves = [t.requires_grad_() for t in (image, weight, bias)]

    def twice(convolve: Any, leaves: list[Tensor]) -> tuple[Tensor, ...]:
        once = torch.autograd.grad(convolve(*leaves, *sizes).pow(3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(torch.stack([each.square().sum() for each in once]).sum(), leaves)

    with assert_runs(OP, WEIGHT, IMAGE, backward=False):
        found = twice(partial(module.conv2d_image, channels_last=False), leaves)
    plain, exact = twice(F.conv2d, leaves), twice(F.conv2d, [t.detach().double().requires_grad_() for t in leaves])
    for one, eager, truth in zip(found, plain, exact, strict=True):
        assert_parity(one, eager, truth)


def test_a_transposed_convolution_is_differentiated_by_it() -> None:
    """To an image of a few colours; its own gradients, too, are these ops'."""
    image, weight, _, x, _, stride, padding = arguments((3, 3, 20, 8, 10, (4, 4), (2, 2), (1, 1)))
    for more, dilation, runs in (([0, 0], [1, 1], True), ([1, 0], [1, 1], True), ([0, 0], [2, 1], False)):
        layer = Convolution(weight, torch.randn(3), stride, padding, more, dilation, 1)
        eager = partial(F.conv_transpose2d, stride=2, padding=1, output_padding=more, dilation=dilation)
        if runs:
            ours = lambda x, *made, layer=layer: conv_transpose2d(x, Convolution(*made, *layer.geometry))  # noqa: E731
            assert_gradients((OP, WEIGHT), ours, eager, x, weight, layer.bias)
        grad = torch.randn_like(eager(x, weight))
        with ops_run() as ran:
            found = conv_transpose2d_backward(grad, x, layer, [True, True, True])
        assert ran == ({"conv2d_image", "conv2d_image_weight"} if runs else set())
        leaves = [t.requires_grad_() for t in (x, weight, layer.bias)]
        torch.testing.assert_close(found, torch.autograd.grad(eager(*leaves), leaves, grad), atol=1e-3, rtol=1e-4)
        x, weight = x.detach(), weight.detach()
    layer = layer._replace(dilation=[1, 1])
    assert module.reads(image, x, layer)
    assert not module.reads(image, x, layer._replace(groups=2))
    assert not module.reads(image, x.double(), layer)
    wide = layer._replace(weight=torch.randn(33, 3, 4, 4))
    assert [module.reads(image, layout(torch.randn(3, 33, 4, 5)), wide) for layout in (contiguous, channels_last)] == [
        False, True,
    ]  # fmt: skip


def test_torch_knows_it() -> None:
    image, weight, bias, grad, kernel, *sizes = arguments((2, 3, 6, 7, 8, (4, 4), (2, 2), (1, 1)))
    inputs = [t.requires_grad_() for t in (image, weight, bias)]
    assert_opcheck(OP, *((layout(image), weight, one, *sizes, last, *kind) for layout in (contiguous, channels_last)
                         for one in (bias, None) for last, kind in ((True, LEAKY), (False, NONE))))  # fmt: skip
    assert_opcheck(WEIGHT, *((image, layout(grad), kernel, *sizes) for layout in (contiguous, channels_last)))
    assert_compiles((OP, WEIGHT, IMAGE), lambda *args: module.conv2d_image(*args, *sizes, True).tanh(), *inputs)
    assert_no_forward_mode(lambda x: OP(x, weight, None, *sizes, True, *NONE), image.detach())


def test_where_it_pays() -> None:
    image, weight, *_ = arguments(SHAPES["a discriminator's"])
    geometry: dict[str, Any] = {"kernel": [4, 4], "stride": [2, 2], "padding": [1, 1]}

    def ask(image: Tensor = image, parameters: Any = (weight,), **changed: Any) -> bool:
        return module.pays(image, parameters, **{**geometry, **changed})

    assert ask()
    assert ask(image[:, :, :2, :2])
    for wrong in (
        {"stride": [1, 1]}, {"stride": [2, 3]}, {"kernel": [4, 3]}, {"kernel": [66, 66], "padding": [40, 40]},
        {"image": image[:, :, :1], "padding": [1, 1]}, {"image": torch.randn(2, 5, 32, 32)}, {"image": image[:, :0]},
        {"image": image.double()}, {"image": image.half()}, {"image": image.to("meta")},
        {"kernel": [16, 16], "stride": [16, 16]}, {"parameters": (weight, weight.double())},
    ):  # fmt: skip
        assert not ask(**wrong)
    odd = {"kernel": [3, 3], "stride": [3, 3]}
    halves: Any = {"image": image.bfloat16(), "parameters": [weight.bfloat16()]}
    assert not ask(image.bfloat16())  # by a weight in float32
    assert ask(**halves) == pairs_pay()
    assert not ask(**halves, **odd)
    with torch.autocast("cpu", torch.bfloat16):
        assert ask() == pairs_pay()
        assert not ask(**odd)
        assert not ask(image[:, :1], **odd)
        with torch.no_grad():  # of one colour in float32
            assert ask(image[:, :1], **odd)
            assert not ask(**odd)
    with forward_ad.dual_level():
        assert not ask()
    seen: list[bool] = []
    torch.vmap(lambda x: (seen.append(ask(x)), x)[1])(torch.stack([image] * 2))
    assert seen == [False]


def test_errors() -> None:
    """Of whoever calls an op past the layers that check."""
    image, weight, bias, grad, kernel, *sizes = arguments((2, 3, 6, 7, 8, (4, 4), (2, 2), (1, 1)))
    run = lambda *args: OP(*args, *NONE)  # noqa: E731
    one, two, none, wide = [1, 1], [2, 2], [0, 0], torch.randn(1, 3, 37, 37)
    assert_raises(
        [
            (lambda: run(image[0], weight, None, *sizes, True), RuntimeError, r"\(O, I, KH, KW\) of an image \(N, I"),
            (lambda: run(image.double(), weight, None, *sizes, True), RuntimeError, "image: expected float32 or bfl"),
            (lambda: run(image.bfloat16(), weight[..., :3], None, *sizes, True), RuntimeError, "of even width"),
            (lambda: WEIGHT(image.bfloat16(), grad, kernel, *sizes), RuntimeError, "image: expected another dtype"),
            (lambda: run(image, weight[:, :2], None, *sizes, True), RuntimeError, r"weight: expected \(O, I, KH, KW\)"),
            (lambda: run(image, weight.double(), None, *sizes, True), RuntimeError, "weight: expected another dtype"),
            (lambda: run(image, weight[:0], None, *sizes, True), RuntimeError, "weight: expected a channel"),
            (lambda: run(image, weight, bias[:2], *sizes, True), RuntimeError, "bias: expected another shape"),
            (lambda: run(image, weight, None, none, one, True), RuntimeError, "stride: expected at least 1"),
            (lambda: run(image, weight, None, two, [-1, 0], True), RuntimeError, "padding: expected at least 0"),
            (lambda: run(image[:, :, :1], weight, None, two, one, True), RuntimeError, "kernel: expected no more than"),
            (lambda: run(image[:, :, :0], weight, None, two, two, True), RuntimeError, "image: expected at least one"),
            (lambda: run(image, wide, None, two, [20, 20], True), RuntimeError, "at most 4096 taps"),
            (lambda: OP(image, weight, None, *sizes, True, "gelu", 0.0), RuntimeError, "activation: expected none"),
            (lambda: WEIGHT(image, grad[0], kernel, *sizes), RuntimeError, r"grad: expected \(N, O, h, w\)"),
            (lambda: WEIGHT(image, grad[:, :, 1:], kernel, *sizes), RuntimeError, "grad: expected another shape"),
            (lambda: WEIGHT(image, grad.double(), kernel, *sizes), RuntimeError, "grad: expected another dtype"),
            (lambda: WEIGHT(image, grad, none, *sizes), RuntimeError, "kernel: expected at least 1"),
        ]
    )  # fmt: skip


# ---- in models


def test_layers_run_it() -> None:
    """Sizes may be numbers; others than it takes are torch's."""
    x = torch.randn(8, 3, 16, 24)
    numbers = nn.Conv2d(3, 5, 4, 2, 1)
    numbers.stride, numbers.padding, numbers.dilation = 2, 1, 1  # type: ignore[assignment]
    for conv, runs in (
        (nn.Conv2d(3, 20, 4, 2, 1, bias=False), True), (nn.Conv2d(3, 5, (2, 4), 2), True), (numbers, True),
        (nn.Conv2d(3, 5, 4, 2, 1, dilation=2), False), (nn.Conv2d(3, 5, 4, 2, "valid"), False),
        (nn.Conv2d(3, 5, 3, 2, 1), False), (nn.Conv2d(3, 32, 4, 2, 1), True),
        (nn.Conv2d(3, 6, 4, 2, 1, groups=3), False),
    ):  # fmt: skip
        model, plain = Conv2dChain(conv, nn.ReLU()), nn.Sequential(conv, nn.ReLU())
        for layout in (contiguous, channels_last):
            with ops_run() as ran:
                found = model(layout(x))
            assert ("conv2d_image" in ran) == runs
            torch.testing.assert_close(found, plain(layout(x)))
            assert found.stride() == plain(layout(x)).stride()
    wide = Conv2dChain(nn.Conv2d(3, 33, 4, 2, 1))  # in planes no faster than torch's
    for layout in (contiguous, channels_last):
        with ops_run() as ran:
            wide(layout(x))
        assert ran == ({"conv2d_image"} if layout is channels_last else set())
    leads = Conv2dChain(nn.Conv2d(3, 48, 4, 2, 1), nn.ReLU(), nn.Conv2d(48, 48, 4, 2, 1))
    with assert_runs(OP, torch.ops.fastgen.winograd_to_small.default, backward=False):
        leads(x)


def test_models_run_it() -> None:
    images, levels = torch.rand(8, 3, 32, 32) * 2 - 1, torch.randint(256, (8, 1, 28, 28))
    gan = DCGAN(image_size=32, channels=16)
    with assert_runs(OP, WEIGHT, IMAGE, backward=False):
        gan.discriminator(images.requires_grad_()).sum().backward()
    with assert_runs(OP, backward=False):
        VAE(1, image_size=28, levels=256, channels=(16, 32)).losses(levels)
