"""conv2d_image in bfloat16: by pairs of pixels, and in layers where nobody asks for gradients."""

import copy
from itertools import cycle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgen.nn import Conv2dChain
from fastgen.ops import conv2d_image as module
from fastgen.ops._dtypes import has_dot_product
from fastgen.ops._records import NONE, Activation
from ops import assert_op_parity_over, ops_run, with_threads
from parity import channels_last, contiguous, sliced
from test_conv2d_image import LEAKY, OP, SHAPES, arguments


def test_in_bfloat16() -> None:
    """Of a kernel of even width, by weights in float32, which are rounded as they are read; gradients in float32."""
    kinds = cycle((NONE, LEAKY, Activation("relu"), Activation("tanh")))
    for shape in SHAPES.values():
        if shape[5][1] % 2:
            continue
        image, weight, bias, grad, _, *sizes = arguments(shape)
        halves = image.bfloat16()
        batches = [(layout(halves), weight, one, *sizes, last, *next(kinds)) for layout in (contiguous, sliced)
                   for one in (bias, None) for last in (True, False)]  # fmt: skip
        assert_op_parity_over(batches, OP, module.conv2d_image_reference)
        found = [with_threads(threads, lambda batch=batches[0]: OP(*batch)) for threads in (1, 2, 7)]
        assert all(torch.equal(found[0], other) for other in found[1:])
        leaves = [t.clone().requires_grad_() for t in (halves, weight, bias)]
        grads = torch.autograd.grad(OP(*leaves, *sizes, True, *NONE), leaves, grad.bfloat16())
        exact = [t.detach().double().requires_grad_() for t in leaves]
        truth = torch.autograd.grad(F.conv2d(*exact, *sizes), exact, grad.bfloat16().double())
        for one, leaf, right in zip(grads, leaves, truth, strict=True):
            assert one.dtype == leaf.dtype
            torch.testing.assert_close(one.double(), right, rtol=2**-8, atol=2**-8 * right.abs().sum().item() / 50)


@pytest.mark.parametrize("colors", [1, 3])
def test_under_autocast(colors: int) -> None:
    """Without gradients, of one colour or by a CPU that multiplies pairs; in a model of bfloat16 as well."""
    plain = nn.Sequential(nn.Conv2d(colors, 32, 4, 2, 1), nn.LeakyReLU(0.2))
    model, image, runs = Conv2dChain(*plain), torch.randn(4, colors, 28, 28), colors == 1 or has_dot_product()
    exact = copy.deepcopy(plain).double()(image.double()).detach()
    with torch.autocast("cpu", torch.bfloat16):
        for given in (image, channels_last(image), image.bfloat16()):
            with torch.no_grad(), ops_run() as ran:
                found, expected = model(given), plain(given)
            assert ran == ({"conv2d_image"} if runs else set())
            assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
            assert (found - exact).norm() <= (expected - exact).norm()
        with ops_run() as ran:
            trained, expected = model(image), plain(image)
        assert not ran
        assert torch.equal(trained, expected)
    halves, given = copy.deepcopy(model).bfloat16(), image.bfloat16()
    with torch.no_grad(), ops_run() as ran:
        assert (halves(given) - exact).norm() <= 1.1 * (copy.deepcopy(plain).bfloat16()(given) - exact).norm()
    assert ran == ({"conv2d_image"} if runs else set())
    with torch.no_grad():
        model[0].bias[:3] = torch.tensor([-torch.inf, torch.inf, torch.finfo(torch.float32).max])  # type: ignore[index]
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = (each(image).sum((0, 2, 3)) for each in (model, plain))
    assert torch.equal(found[:3], expected[:3])
    odd = Conv2dChain(nn.Conv2d(3, 32, 3, 3)).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), ops_run() as ran:
        odd(torch.randn(4, 3, 27, 27))
    assert not ran
