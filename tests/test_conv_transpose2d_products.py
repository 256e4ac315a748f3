"""conv_transpose2d_products: transposed convolutions of few pixels as products, without what is beside the image."""

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import fuse
from fastgen.ops import conv_transpose2d as forms
from fastgen.ops import conv_transpose2d_products as module
from fastgen.ops._dtypes import multiplies, pairs_pay
from fastgen.ops._records import Convolution
from fastgen.ops.conv_transpose2d_bn import conv_transpose2d_bn
from ops import assert_gradients, assert_op_parity, assert_opcheck, assert_raises, assert_runs
from parity import assert_parity, channels_last, contiguous
from transposed import arguments, options, pair

OP = torch.ops.fastgen.conv_transpose2d_products.default
# N, I, O, H, W; kernel, stride, padding, output_padding, dilation, groups
CASES: dict[str, Any] = {
    "dcgan": ((5, 9, 37, 4, 4), (4, 2, 1, 0, 1, 1)),
    "one column of panels": ((2, 3, 5, 3, 7), (4, 2, 1, 0, 1, 1)),
    "dcgan in tensorflow": ((3, 5, 8, 4, 5), (5, 2, 2, 1, 1, 1)),
    "one pixel": ((7, 4, 6, 1, 1), (4, 2, 1, 0, 1, 1)),
    "no border": ((2, 4, 6, 3, 3), (2, 2, 0, 0, 1, 1)),
    "pixels without taps": ((2, 4, 6, 3, 4), (2, 3, 0, 2, 1, 1)),
    "same size": ((2, 4, 6, 5, 3), (3, 1, 1, 0, 1, 1)),
    "larger": ((2, 4, 6, 2, 3), (3, 1, 0, 0, 1, 1)),
    "kernel larger than the image": ((2, 3, 4, 2, 2), (7, 2, 3, 1, 1, 1)),
    "all but the middle cut off": ((2, 3, 4, 5, 5), (3, 1, 2, 0, 1, 1)),
    "sides apart": ((3, 3, 18, 5, 7), ((3, 5), (2, 3), (1, 2), (1, 0), 1, 1)),
    "groups of images": ((9, 300, 20, 8, 8), (4, 2, 1, 0, 1, 1)),
}
#: What pays, of the networks that it was measured in, at sixteen images: kernel and so on, channels, size.
PAYS = [((4, 2, 1, 0), (512, 256), 4), ((4, 2, 1, 0), (256, 128), 8), ((5, 2, 2, 1), (1024, 512), 4)]


def sizes(case: Any) -> list[list[int]]:
    return [pair(each) for each in case[1][1:4]]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_parity(case: Any) -> None:
    """By every layout of the image and of the weight, with a bias and without; by one thread and by two."""
    x, weight, bias, *_ = arguments(case)
    weights = (weight, channels_last(weight), weight.transpose(0, 1).contiguous().transpose(0, 1))
    for image, given, added in itertools.product((contiguous, channels_last), weights, (bias, None)):
        assert_op_parity(OP, module.conv_transpose2d_products_reference, image(x), given, added, *sizes(case))
    threads = torch.get_num_threads()
    one = OP(x, weight, bias, *sizes(case))
    try:
        torch.set_num_threads(3 - threads if threads < 3 else 1)
        assert torch.equal(OP(x, weight, bias, *sizes(case)), one)
    finally:
        torch.set_num_threads(threads)


def test_weights_in_float32_of_images_in_bfloat16() -> None:
    """Are rounded where they are read, in every layout; a gradient has the weight's dtype."""
    for case in CASES.values():
        x, weight, bias, *_ = arguments(case)
        if x.shape[1] % 2:
            continue
        halves = x.bfloat16()
        rounded = OP(halves, weight.bfloat16(), bias.bfloat16(), *sizes(case))
        for read in (weight, channels_last(weight), weight.transpose(0, 1).contiguous().transpose(0, 1)):
            assert torch.equal(OP(halves, read, bias, *sizes(case)), rounded)
        assert_op_parity(OP, module.conv_transpose2d_products_reference, halves, weight, None, *sizes(case))
    leaves = [t.clone().requires_grad_() for t in (halves, weight, bias)]
    found = torch.autograd.grad(OP(*leaves, *sizes(case)).sum(), leaves)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    truth = torch.autograd.grad(F.conv_transpose2d(*exact, **options(case)).sum(), exact)
    for one, leaf, right in zip(found, leaves, truth, strict=True):
        assert one.dtype == leaf.dtype
        torch.testing.assert_close(one.double(), right, rtol=0.02, atol=0.01 * right.abs().max().item())
    with pytest.raises(RuntimeError, match="bias: expected another dtype"):
        OP(halves, weight, bias.bfloat16(), *sizes(case))


@pytest.mark.skipif(
    not (pairs_pay() and multiplies(torch.bfloat16)), reason="chosen on CPUs that multiply pairs of bfloat16"
)
def test_autocast_without_gradients_reads_them() -> None:
    """Layers with a batch norm and alone; weights are not converted before."""
    plain = nn.Sequential(
        nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1)
    ).eval()
    model, x = copy.deepcopy(plain), torch.randn(16, 128, 4, 4)
    assert fuse(model).swapped
    exact = copy.deepcopy(plain).double()(x.double())
    seen: list[Any] = []
    real = module.conv_transpose2d_products

    def watched(image: Tensor, convolution: Convolution) -> Tensor:
        seen.append((image.dtype, convolution.weight.dtype))
        return real(image, convolution)

    with (
        pytest.MonkeyPatch.context() as patch, torch.no_grad(), torch.autocast("cpu", torch.bfloat16),
        assert_runs(OP, backward=False),
    ):  # fmt: skip
        patch.setattr(forms, "conv_transpose2d_products", watched)
        found, expected = model(x), plain(x)
    assert seen == [(torch.bfloat16, torch.float32)] * 2
    assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
    assert (found - exact).norm() <= 1.1 * (expected - exact).norm()


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    case = CASES["groups of images"]
    x, weight, bias, *_ = arguments(case)
    whole = OP(x, weight, bias, *sizes(case))
    for n in (0, 4, 8):
        assert torch.equal(OP(x[n : n + 1], weight, bias, *sizes(case))[0], whole[n])
    assert OP(x[:0], weight, bias, *sizes(case)).shape == (0, 20, 16, 16)


def test_gradients_and_registration() -> None:
    case = CASES["dcgan"]
    x, weight, bias, *_ = arguments(case)
    named = options(case)

    def ours(*inputs: Tensor) -> Tensor:
        return OP(*inputs, *sizes(case))

    assert_gradients((OP,), ours, lambda *inputs: F.conv_transpose2d(*inputs, **named), x, weight, bias)
    weight.requires_grad_()
    assert_opcheck(OP, *((layout(x), weight, bias, *sizes(case)) for layout in (contiguous, channels_last)))


@pytest.mark.parametrize(("geometry", "channels", "size"), PAYS)
def test_it_runs_where_it_pays(geometry: tuple[int, ...], channels: tuple[int, int], size: int) -> None:
    """At the sizes that it was measured at; not in float64, for a few pixels, for large images, elsewhere."""
    (I, O), (kernel, stride, padding, output_padding) = channels, geometry
    sizes = Convolution(
        torch.randn(I, O, kernel, kernel) / I, None, [stride] * 2, [padding] * 2, [output_padding] * 2, [1, 1], 1
    )
    assert module.pays(torch.empty(16, I, size, size), sizes)
    for other in (
        torch.empty(16, I, 16, 16), torch.empty(16, I, 2 * size, 64), torch.empty(16, I, size, size).double(),
        torch.empty(3, I, 4, 4), torch.empty(16, I, size, size, device="meta"),
    ):  # fmt: skip
        assert not module.pays(other, sizes)
    for changed in (
        sizes._replace(groups=2), sizes._replace(dilation=[2, 1]), sizes._replace(weight=sizes.weight[:, :31]),
    ):  # fmt: skip
        assert not module.pays(torch.empty(16, I, size, size), changed)
    few = Convolution(torch.empty(31, O, kernel, kernel), *sizes[1:])
    assert not module.pays(torch.empty(16, 31, size, size), few)


def test_the_op_of_a_layer_computes_by_it() -> None:
    x, weight, mean, variance = torch.randn(4, 128, 5, 5), torch.randn(128, 32, 4, 4) / 40, *torch.rand(2, 32)
    layer = {"stride": 2, "padding": 1, "activation": "relu"}
    seen: list[Any] = []
    real = module.conv_transpose2d_products

    def watched(*args: Any) -> Tensor:
        seen.append(args[0].shape)
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "conv_transpose2d_products", watched)
        with assert_runs(torch.ops.fastgen.conv_transpose2d_bn.default, backward=False):
            y = conv_transpose2d_bn(x, weight, None, None, None, mean, variance, **layer)  # type: ignore[arg-type]
    assert seen == [(4, 128, 5, 5)]
    with torch.no_grad(), assert_runs(OP, torch.ops.fastgen.batch_norm_running.default, backward=False):
        assert torch.equal(conv_transpose2d_bn(x, weight, None, None, None, mean, variance, **layer), y)  # type: ignore[arg-type]
    plain = F.batch_norm(F.conv_transpose2d(x, weight, None, 2, 1), mean, variance).relu()
    exact = F.batch_norm(
        F.conv_transpose2d(x.double(), weight.double(), None, 2, 1), mean.double(), variance.double()
    ).relu()
    assert_parity(y, plain, exact)


def test_a_direct_call_is_checked() -> None:
    x, w, two, one, none = torch.randn(2, 3, 4, 4), torch.randn(3, 5, 4, 4), [2, 2], [1, 1], [0, 0]
    wrong = [
        ((x.double(), w, None, two, one, none), "x: expected float32"),
        ((x, w.double(), None, two, one, none), "weight: expected"),
        ((x, w[0], None, two, one, none), r"weight: expected shape \(I, O, KH, KW\)"),
        ((x[:, :2], w, None, two, one, none), "x: expected shape"),
        ((x, w, w[0, 0, 0], two, one, none), "bias: expected"),
        ((x, w, None, [0, 2], one, none), "stride: expected at least 1"),
        ((x, w, None, [2**13, 1], one, none), "stride: expected a product of at most"),
        ((x, w, None, two, [-1, 0], none), "padding: expected at least 0"),
        ((x, w, None, two, [1, 9], none), "padding: expected a result"),
        ((x, w, None, two, one, [2, 0]), "output_padding: expected less than stride"),
        ((x, w.expand(3, 5, 4, 4)[..., :1].expand(3, 5, 4, 2**13), None, two, one, none), "weight: expected at most"),
    ]
    assert_raises((lambda args=args: OP(*args), RuntimeError, message) for args, message in wrong)
